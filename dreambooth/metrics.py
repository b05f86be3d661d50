"""Measure a fine-tuned model against its base: is the subject learned, is the prompt followed, is the class kept.

    python -m dreambooth.metrics --model_path ./dream_outputs --base_model_path ./my_model \\
        --subject_data_dir ./more_pictures --clip_model_path ./clip --class_prompt "a photo of a dog" \\
        --prompt "a photo of sks dog in a bucket" "a photo of sks dog at night" --identifier sks --sheet sheet.png

The measures are those of the DreamBooth paper (Ruiz et al., 2023), all with the CLIP model that is named:

    CLIP-I  subject fidelity: mean cosine of the drawn pictures and the subject's own
    CLIP-T  prompt fidelity: mean cosine of the drawn pictures and their prompt
    PRES    how much pictures of the plain class prompt resemble the subject: a class that is kept stays near the base
    DIV     diversity: mean distance (1 - cosine) of two pictures of the same prompt

The subject's pictures must not be those that the model was trained on. The paper's tables have DINO beside CLIP, and
another CLIP perhaps: compare the figures with each other, not with published ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.config import commands, parser
from dreambooth.config.fields import check_png, flag
from dreambooth.data import picture_files, rare_words
from dreambooth.drawing import measures, sampling, sheets
from dreambooth.drawing.clip import Clip
from dreambooth.drawing.measures import Request
from dreambooth.files import atomic, records, weight_files
from dreambooth.models import loading, pipeline_folder
from dreambooth.system import console, disk, libraries
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image

    from dreambooth.data.concepts import Picture
    from dreambooth.models.families.base import Family

LEGEND = {
    "CLIP-I": "more is better: is it the subject?",
    "CLIP-T": "more is better: does it follow the prompt?",
    "PRES": "best as the base's: the class stays itself",
    "DIV": "best as the subject's: the pictures differ",
}
UNMEASURED = ("json", "sheet", "pictures_dir", "verbose")  # flags that change no figure


# fmt: off
@dataclass(frozen=True)
class MetricsSettings(commands.DrawFlags, title="models, prompts and files"):
    """The settings of dreambooth.metrics."""

    model_path: str = flag(
        "the fine-tuned pipeline's folder (required)", required=True)
    base_model_path: str = flag(
        "the pipeline that it was made from (required)", required=True)
    subject_data_dir: str = flag(
        "other pictures of the subject than it was trained on (required)", required=True)
    clip_model_path: str = flag(
        "the CLIP model to measure with: a folder, or a name (required)", required=True)
    prompt: tuple[str, ...] = flag(
        "prompts of the subject", (), nargs="+", action="extend")
    prompts_file: str | None = flag(
        "a prompt in each line; behind a tab, the names of the subject's pictures in that scene (with * and ?)",
        metavar="FILE")
    class_prompt: str | None = flag(
        'the prompt of the class, "a photo of a dog"; without it there is no PRES')
    identifier: str | None = flag(
        "the rare word, which is left out of what CLIP reads")
    num_images: int = flag(
        "pictures for each prompt", 4, least=1)
    num_class_images: int = flag(
        "pictures of the class prompt", 16, least=1)
    json: str | None = flag(
        "write the figures there; - for the terminal, instead of the table", metavar="FILE")
    sheet: str | None = flag(
        "write a contact sheet there: prompts by subject, base and fine-tuned", metavar="FILE.png")
    pictures_dir: str | None = flag(
        "write the fine-tuned model's pictures into this folder")
    # fmt: on

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_prompt is not None and not self.class_prompt.strip():
            raise BadInput("--class_prompt: it is empty")
        if not self.prompt and not self.prompts_file:
            raise BadInput("--prompt: give at least one, or --prompts_file")
        commands.check_prompts(self.prompt)
        check_png("--sheet", self.sheet)


def read_settings(argv: Sequence[str]) -> MetricsSettings:
    """Read the command line, and check everything that needs no library."""
    settings = parser.read_settings(MetricsSettings, argv, prog="python -m dreambooth.metrics", description=__doc__)
    for option, path in (("--sheet", settings.sheet), ("--json", settings.json)):
        if path and path != "-":
            disk.check_writable(Path(path), option, is_file=True)
    if settings.pictures_dir:
        disk.check_writable(Path(settings.pictures_dir), "--pictures_dir")
    clip = settings.clip_model_path
    is_name = clip.count("/") == 1 and not clip.startswith((".", "/", "~")) and not Path(clip).parent.is_dir()
    if not is_name and not Path(clip).is_dir():
        raise BadInput(f"--clip_model_path {clip}: there is no such folder; a name on the hub is OWNER/MODEL")
    for option, path in (("--model_path", settings.model_path), ("--base_model_path", settings.base_model_path)):
        pipeline_folder.check_model(path, flag=option)
    return settings


def read_requests(settings: MetricsSettings, pictures: Sequence[Picture]) -> list[Request]:
    """Read the prompts, with the subject's pictures that each is compared with."""
    everything = list(range(len(pictures)))
    requests = [Request(prompt, everything) for prompt in settings.prompt]
    if settings.prompts_file:
        file = f"--prompts_file {settings.prompts_file}"
        try:
            lines = Path(settings.prompts_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{file}: it can't be read ({error})") from None
        for line in filter(str.strip, lines):
            prompt, _, names = line.partition("\t")
            if not prompt.strip():
                raise BadInput(f"{file}: a prompt is empty")
            own = [index for index in everything if any(pictures[index].path.match(name) for name in names.split())]
            if names.strip() and not own:
                raise BadInput(f"{file}: no picture in {settings.subject_data_dir} is named {names}")
            requests.append(Request(prompt.strip(), own or everything))
        if not requests:
            raise BadInput(f"{file}: there is no prompt in it")
    return requests


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    files, _ = picture_files.find_pictures(settings.subject_data_dir, "--subject_data_dir")
    requests = read_requests(settings, files)
    record = records.read(Path(settings.model_path))
    for warning in _warnings(record, files):
        console.warn(warning)
    libraries.load(weight_files.READERS, settings.verbose)
    cards.check_precision(settings.mixed_precision)

    # Encode the subject's pictures and the prompts with CLIP
    clip = Clip(settings.clip_model_path)
    if any(map(clip.spells_out, (request.prompt for request in requests))):
        console.warn(
            f"--clip_model_path {settings.clip_model_path}: its vocabulary has no Chinese characters, so CLIP-T means"
            " nothing for these prompts; the other measures do"
        )
    own = [picture_files.open_picture(picture.path) for picture in files]
    subject = clip.encode_pictures(own)
    prompts = clip.encode_prompts([without(request.prompt, settings.identifier) for request in requests])

    # Draw the same with both models, and measure
    results, drawn, of_class = {}, {}, {}
    for name, option, path in (
        ("base", "--base_model_path", settings.base_model_path),
        ("fine-tuned", "--model_path", settings.model_path),
    ):
        family = loading.load_family(loading.Source(path), option)
        if kind := cards.half(settings.mixed_precision):
            loading.to_half(family.networks(), kind)
        drawn[name], of_class[name] = _draw(family, requests, settings, name)
        del family  # before the next is loaded
        rows = [clip.encode_pictures(group) for group in drawn[name]]
        vectors = clip.encode_pictures(of_class[name]) if of_class[name] else np.zeros([0, subject.shape[1]])
        results[name] = measures.measure_model(rows, vectors, subject, requests, prompts)
    results["subject"] = measures.measure_subject(subject, requests, prompts)

    # Report
    fidelity = [results[name]["CLIP-I"] for name in ("base", "fine-tuned", "subject")]
    report = {
        "measures": results,
        "fidelity gained": measures.share_gained(*fidelity),
        "settings": {name: value for name, value in vars(settings).items() if name not in UNMEASURED},
    }
    if settings.json == "-":
        print(atomic.as_json(report), end="")
    else:
        print(table(report))
    if settings.json and settings.json != "-":
        atomic.write_json(Path(settings.json), report)
    text = {"model": settings.model_path, "seed": settings.seed, "steps": settings.num_inference_steps}
    titles: list[str] = []
    if settings.sheet:
        titles = [request.prompt for request in requests]
        columns = {"subject": [[own[index] for index in request.references] for request in requests], **drawn}
        if settings.class_prompt:
            titles.append(f"{settings.class_prompt} (the class alone: it should stay as the base draws it)")
            columns = {name: [*rows, of_class.get(name, [])] for name, rows in columns.items()}
        columns[_title(record.get("steps"))] = columns.pop("fine-tuned")
        sheet = sheets.make_contact_sheet(titles, columns, settings.num_images)
        own_text = {"prompt": " | ".join(titles), **text}
        atomic.write_picture(Path(settings.sheet), sheet, own_text)
    if settings.pictures_dir:
        _save_pictures(drawn["fine-tuned"], Path(settings.pictures_dir), [each.prompt for each in requests], text)
    written = {"figures": settings.json, "pictures": settings.pictures_dir, "contact sheet": settings.sheet}
    for what, place in written.items():
        if place and settings.json != "-":
            print(f"{what:<15}{place}")
    if settings.json != "-":
        print(*sheets.legend(titles), sep="\n", end="\n" if sheets.legend(titles) else "")


def _title(steps: object) -> str:
    """Return the heading of the fine-tuned model's pictures, with its number of updates where its record has it."""
    return f"fine-tuned, {steps} updates" if isinstance(steps, int) else "fine-tuned"


def _warnings(record: Mapping[str, Any], files: Sequence[Picture]) -> Iterator[str]:
    """Yield a warning where pictures of the subject are those that the model was trained on, by their hashes."""
    try:
        trained = {each["sha256"] for concept in record["concepts"] for each in concept["pictures"]}
    except (KeyError, TypeError):
        return
    count = sum(file.sha256 in trained for file in files)
    if count:
        yield (
            f"--subject_data_dir: the model was trained on {count} of its {len(files)} pictures, so CLIP-I counts"
            " what it remembers; give other pictures of the subject"
        )


def without(prompt: str, identifier: str | None) -> str:
    """Leave a word that has no meaning to CLIP out of a prompt; Chinese has no spaces around it."""
    if not identifier:
        return prompt
    if not rare_words.HAS_HAN.search(prompt):
        return " ".join(word for word in prompt.split() if word != identifier)
    edges = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])" if identifier.isascii() else "{}"
    return re.sub(edges.format(re.escape(identifier)), "", prompt)


def _draw(
    family: Family, prompts: Sequence[Request], settings: MetricsSettings, name: str
) -> tuple[list[list[Image]], list[Image]]:
    """Draw pictures of each prompt and of the class prompt, from the same noise for every model."""
    count = settings.num_images
    requests = sampling.requests_for([each.prompt for each in prompts], count)
    if settings.class_prompt:
        requests += sampling.requests_for([settings.class_prompt], settings.num_class_images)
    drawing = sampling.draw(family, settings.draw_settings(family.default_size), requests)
    pictures = list(console.progress_bar(drawing, total=len(requests), desc=f"Drawing, {name}"))
    groups = [pictures[first : first + count] for first in range(0, count * len(prompts), count)]
    return groups, pictures[count * len(prompts) :]


def _save_pictures(
    groups: Sequence[Sequence[Image]], folder: Path, prompts: Sequence[str], text: Mapping[str, Any]
) -> None:
    """Write the pictures of each prompt as PROMPT-K.png, both counted from 0, with prompt and settings as text."""
    for index, (prompt, group) in enumerate(zip(prompts, groups)):
        for number, picture in enumerate(group):
            own = {"prompt": prompt, "picture": number, **text}
            atomic.write_picture(folder / f"{index}-{number}.png", picture, own)


def table(report: Mapping[str, Any]) -> str:
    """Format the figures for people."""
    columns = list(report["measures"])
    lines = ["".join(f"{name:>12}" for name in ("", *columns))]
    for measure in measures.MEASURES:
        values = [report["measures"][name][measure] for name in columns]
        figures = "".join(f"{'-' if value is None else f'{value:.3f}':>12}" for value in values)
        lines.append(f"{measure:>12}{figures}   {LEGEND[measure]}")
    share = report["fidelity gained"]
    if share is not None:
        lines.append(f"CLIP-I has come {share:.0%} of the way from the base to the subject's own pictures")
    lines.append("Compare these figures with each other: the paper's table has DINO, and another CLIP perhaps")
    return "\n".join(lines)


if __name__ == "__main__":
    console.run_command(main)
