"""Measure a fine-tuned model against its base: is the subject learned, is the prompt followed, is the class kept.

    python -m dreambooth.metrics --model_path ./dream_outputs --base_model_path ./my_model \\
        --subject_data_dir ./more_pictures --clip_model_path ./clip --class_prompt "a photo of a dog" \\
        --prompt "a photo of sks dog in a bucket" "a photo of sks dog at night" --identifier sks --sheet sheet.png

The measures are those of the DreamBooth paper (Ruiz et al., 2023), with the CLIP model that is named:

    CLIP-I  subject fidelity: mean cosine of the drawn pictures and the subject's own
    CLIP-T  prompt fidelity: mean cosine of the drawn pictures and their prompt
    PRES    how much pictures of the plain class prompt resemble the subject: a class that is kept stays near the base
    DIV     diversity: mean distance (1 - cosine) of two pictures of the same prompt
    DINO    with --dino_model_path: CLIP-I by a DINO, which tells one dog from another

Several subjects of one model come from a list:

    python -m dreambooth.metrics --concepts subjects.yaml ...

with subject_data_dir, prompt or prompts_file, class_prompt and identifier of each. A last table then tells how many of
a subject's pictures resemble another one more.

The subject's pictures must not be those that the model was trained on. The paper's tables have another CLIP perhaps:
compare the figures with each other, not with published ones.
"""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dreambooth.config import parser
from dreambooth.config.commands import MeasuredSubject, MetricsSettings
from dreambooth.config.sources import documents, overlays
from dreambooth.data import picture_files, rare_words
from dreambooth.drawing import measures, sampling, sheets
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.drawing.instruments.dino import Dino
from dreambooth.drawing.measures import Request
from dreambooth.files import atomic, records, weight_files
from dreambooth.models import hub, loading, pipeline_folder
from dreambooth.system import console, disk, libraries
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image

    from dreambooth.data.concepts import Picture
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array

UNMEASURED = ("concepts", "json", "sheet", "pictures_dir", "verbose")  # flags that change no figure


class Subject(NamedTuple):
    """A subject to measure: its own pictures, its prompts, CLIP's vectors of both, and DINO's where there is one."""

    settings: MeasuredSubject
    pictures: Sequence[Image]
    requests: Sequence[Request]
    vectors: Array
    texts: Array
    looks: Array | None


class Drawn(NamedTuple):
    """Pictures of a subject by one model: of each prompt, and of the class prompt."""

    groups: list[list[Image]]
    of_class: list[Image]


def read_settings(argv: Sequence[str]) -> MetricsSettings:
    """Read the command line, and check everything that needs no library."""
    settings = parser.read_settings(MetricsSettings, argv, prog="python -m dreambooth.metrics", description=__doc__)
    for option, path in (("--sheet", settings.sheet), ("--json", settings.json)):
        if path and path != "-":
            disk.check_writable(Path(path), option, is_file=True)
    if settings.pictures_dir:
        disk.check_writable(Path(settings.pictures_dir), "--pictures_dir")
    for option, path in settings.instruments.items():
        hub.check_place(path, option)
    for option, path in (("--model_path", settings.model_path), ("--base_model_path", settings.base_model_path)):
        pipeline_folder.check_draws(path, flag=option)
    return settings


def subjects_of(settings: MetricsSettings) -> list[MeasuredSubject]:
    """List the subjects to measure: that of the flags, or those of --concepts."""
    if settings.concepts is None:
        return [settings]
    where, found = f"--concepts {settings.concepts}", []
    fields = {field.name: field for field in dataclasses.fields(MeasuredSubject)}
    listed = overlays.subjects_of(documents.read(settings.concepts, "--concepts"), fields, where)
    for number, values in enumerate(listed, 1):
        try:
            found.append(MeasuredSubject(**values))
            found[-1].check()
        except BadInput as error:
            raise BadInput(f"{where}: subject {number}: {str(error).removeprefix('--')}") from None
    if not found:
        raise BadInput(f"{where}: its list is empty")
    names = [each.name for each in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"{where}: two subjects are called {twice[0]}; give each its identifier")
    return found


def read_requests(settings: MeasuredSubject, pictures: Sequence[Picture]) -> list[Request]:
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
    record = records.read(Path(settings.model_path))
    read = []
    for each in subjects_of(settings):
        files, _ = picture_files.find_pictures(each.subject_data_dir or "", "--subject_data_dir")
        read.append((each, files, read_requests(each, files)))
        for warning in _warnings(record, files):
            console.warn(warning)
    libraries.load(weight_files.READERS, settings.verbose)
    cards.check_precision(settings.mixed_precision)
    loading.check_draws(settings.base_model_path, "--base_model_path")  # which may have to be fetched

    # Encode pictures and prompts with CLIP
    clip = Clip(settings.clip_model_path)
    dino = Dino(settings.dino_model_path) if settings.dino_model_path else None
    if any(clip.spells_out(request.prompt) for _, _, requests in read for request in requests):
        console.warn(
            f"--clip_model_path {settings.clip_model_path}: its vocabulary has no Chinese characters, so CLIP-T means"
            " nothing for these prompts; the other measures do"
        )
    subjects = []
    for each, files, requests in read:
        own = [picture_files.open_picture(picture.path) for picture in files]
        texts = clip.encode_prompts([rare_words.without(request.prompt, each.identifier) for request in requests])
        looks = dino.encode_pictures(own) if dino else None
        subjects.append(Subject(each, own, requests, clip.encode_pictures(own), texts, looks))

    # Draw the same with both models, and measure
    drawn: dict[str, list[Drawn]] = {}
    reports: list[dict[str, Any]] = [{"measures": {}} for _ in subjects]
    for name, option, path in (
        ("base", "--base_model_path", settings.base_model_path),
        ("fine-tuned", "--model_path", settings.model_path),
    ):
        family = loading.load_family(loading.Source(path), option)
        if kind := cards.half(settings.mixed_precision):
            loading.to_half(family.networks(), kind)
        drawn[name] = _draw(family, subjects, settings, name)
        del family  # before the next is loaded
        for subject, pictures, report in zip(subjects, drawn[name], reports):
            rows = [clip.encode_pictures(group) for group in pictures.groups]
            of_class = pictures.of_class
            vectors = clip.encode_pictures(of_class) if of_class else np.zeros([0, subject.vectors.shape[1]])
            report["measures"][name] = measures.measure_model(
                rows, vectors, subject.vectors, subject.requests, subject.texts
            )
            if dino and subject.looks is not None:
                drawn_looks = [dino.encode_pictures(group) for group in pictures.groups]
                report["measures"][name]["DINO"] = measures.fidelity(drawn_looks, subject.looks, subject.requests)
            if name == "fine-tuned":
                report["nearest"] = measures.nearest(np.concatenate(rows), [each.vectors for each in subjects])
    for subject, report in zip(subjects, reports):
        results = report["measures"]
        results["subject"] = measures.measure_subject(subject.vectors, subject.requests, subject.texts)
        if subject.looks is not None:
            results["subject"]["DINO"] = measures.fidelity_of_subject(subject.looks, subject.requests)
        fidelity = [results[name]["CLIP-I"] for name in ("base", "fine-tuned", "subject")]
        report["fidelity gained"] = measures.share_gained(*fidelity)

    # Report
    flags = {name: value for name, value in vars(settings).items() if name not in UNMEASURED}
    if settings.concepts is None:
        reports[0].pop("nearest")  # there is one subject
        report, said = {**reports[0], "settings": flags}, measures.table(reports[0])
    else:
        named = {subject.settings.name: each for subject, each in zip(subjects, reports)}
        flags["concepts"] = [dataclasses.asdict(subject.settings) for subject in subjects]
        report, said = {"subjects": named, "settings": flags}, measures.table_of_several(named)
    print(atomic.as_json(report).rstrip() if settings.json == "-" else said)
    if settings.json and settings.json != "-":
        atomic.write_json(Path(settings.json), report)
    text = {"model": settings.model_path, "seed": settings.seed, "steps": settings.num_inference_steps}
    titles: list[str] = []
    if settings.sheet:
        titles, columns = _rows_of_sheet(subjects, drawn)
        columns[_title(record.get("steps"))] = columns.pop("fine-tuned")
        sheet = sheets.make_contact_sheet(titles, columns, settings.num_images)
        atomic.write_picture(Path(settings.sheet), sheet, {"prompt": " | ".join(titles), **text})
    if settings.pictures_dir:
        prompts = [request.prompt for subject in subjects for request in subject.requests]
        groups = [group for each in drawn["fine-tuned"] for group in each.groups]
        _save_pictures(groups, Path(settings.pictures_dir), prompts, text)
    written = {"figures": settings.json, "pictures": settings.pictures_dir, "contact sheet": settings.sheet}
    for what, place in written.items() if settings.json != "-" else ():
        if place:
            print(f"{what:<15}{place}")
    if settings.json != "-" and (legend := sheets.legend(titles)):
        print(*legend, sep="\n")


def _rows_of_sheet(
    subjects: Sequence[Subject], drawn: Mapping[str, Sequence[Drawn]]
) -> tuple[list[str], dict[str, list[list[Image]]]]:
    """Return the titles of a contact sheet's rows, and its columns: the subjects' own pictures, and each model's."""
    titles: list[str] = []
    columns: dict[str, list[list[Image]]] = {"subject": [], **{name: [] for name in drawn}}
    for number, subject in enumerate(subjects):
        titles += [request.prompt for request in subject.requests]
        columns["subject"] += [[subject.pictures[index] for index in each.references] for each in subject.requests]
        for name in drawn:
            columns[name] += drawn[name][number].groups
        if prompt := subject.settings.class_prompt:
            titles.append(f"{prompt} (the class alone: it should stay as the base draws it)")
            columns["subject"].append([])
            for name in drawn:
                columns[name].append(drawn[name][number].of_class)
    return titles, columns


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
            f"--subject_data_dir {files[0].path.parent}: the model was trained on {count} of its {len(files)} pictures,"
            " so CLIP-I counts what it remembers; give other pictures of the subject"
        )


def _draw(family: Family, subjects: Sequence[Subject], settings: MetricsSettings, name: str) -> list[Drawn]:
    """Draw pictures of each prompt and class prompt of the subjects, from the same noise for every model."""
    count, of_class = settings.num_images, settings.num_class_images
    requests = []
    for subject in subjects:
        requests += sampling.requests_for([each.prompt for each in subject.requests], count)
        if prompt := subject.settings.class_prompt:
            requests += sampling.requests_for([prompt], of_class)
    drawing = sampling.draw(family, settings.draw_settings(family.default_size), requests)
    pictures = iter(console.progress_bar(drawing, total=len(requests), desc=f"Drawing, {name}"))
    drawn = []
    for subject in subjects:
        groups = [list(islice(pictures, count)) for _ in subject.requests]
        drawn.append(Drawn(groups, list(islice(pictures, of_class if subject.settings.class_prompt else 0))))
    return drawn


def _save_pictures(
    groups: Sequence[Sequence[Image]], folder: Path, prompts: Sequence[str], text: Mapping[str, Any]
) -> None:
    """Write the pictures of each prompt as PROMPT-K.png, both counted from 0, with prompt and settings as text."""
    for index, (prompt, group) in enumerate(zip(prompts, groups)):
        for number, picture in enumerate(group):
            own = {"prompt": prompt, "picture": number, **text}
            atomic.write_picture(folder / f"{index}-{number}.png", picture, own)


if __name__ == "__main__":
    console.run_command(main)
