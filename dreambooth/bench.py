"""Run DreamBench: teach a model each subject of the DreamBooth paper's set, draw its prompts, and measure.

    git clone https://github.com/google/dreambooth
    python -m dreambooth.bench --data ./dreambooth --model CompVis/stable-diffusion-v1-4 --config recipe.yaml \\
        --clip_model_path openai/clip-vit-base-patch32 --dino_model_path facebook/dino-vits16

The training has the settings of --config, a file for train_dreambooth.py, or of --preset. Each subject is called by
the identifier and its class: "sks dog". Of each of its 25 prompts, 4 pictures are drawn, and compared with the
subject's own pictures, as in the paper:

    DINO    is it the very subject: mean cosine of the drawn pictures and the subject's own, by a DINO
    CLIP-I  the same by CLIP
    CLIP-T  does it follow the prompt: mean cosine of the drawn pictures and their prompt, without the identifier

The same command goes on where it was stopped. A subject's model is removed when its pictures are measured, unless
--keep_models is given; the pictures stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.config import commands, parser
from dreambooth.config.fields import flag
from dreambooth.config.sources import documents
from dreambooth.data import picture_files, rare_words
from dreambooth.drawing import measures, sampling
from dreambooth.drawing.instruments import dreambench
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.drawing.instruments.dino import Dino
from dreambooth.drawing.measures import Request
from dreambooth.files import atomic, weight_files
from dreambooth.models import hub, loading, pipeline_folder
from dreambooth.run import output_folder
from dreambooth.system import console, disk, libraries
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput, Stopped
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from dreambooth.drawing.instruments.dreambench import Subject

    Figures = dict[str, float | None]

_SETTINGS, _FIGURES = "bench.json", "figures.json"
# settings of the training that the benchmark gives
_OWN = {"pretrained_model_name_or_path", "instance_data_dir", "instance_prompt", "class_prompt", "class_data_dir"}
_OWN |= {"output_dir", "seed", "resume_from_checkpoint"}
_SECONDS = 0.1  # between two looks at the training
_SCRIPT = Path(__file__).parents[1] / "train_dreambooth.py"
_UNMEASURED = ("output_dir", "keep_models", "verbose", "subjects", "batch_size")  # flags that change no figure


# fmt: off
@dataclass(frozen=True)
class BenchSettings(commands.InstrumentFlags, title="data, model and recipe"):
    """The settings of dreambooth.bench."""

    data: str = flag(
        "the paper's data set: a copy of github.com/google/dreambooth (required)", required=True)
    model: str = flag(
        "the model to teach: a folder, or a name (required)", required=True)
    config: str | None = flag(
        "the settings of the training: a YAML, TOML or JSON file of train_dreambooth.py")
    preset: str | None = flag(
        "settings of the training that come with the tool")
    subjects: tuple[str, ...] = flag(
        "some subjects of the set (default: all)", (), nargs="+", action="extend", metavar="NAME")
    num_prompts: int | None = flag(
        "so many of the prompts of each, from the first (default: all)", type=int, least=1)
    identifier: str = flag(
        "the rare word that names each subject", "sks", required=True)
    output_dir: str = flag(
        "folder for models, pictures and figures", "bench")
    keep_models: bool = flag(
        "keep the model of each subject when it is measured", False)
    # fmt: on

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config and self.preset:
            raise BadInput("--preset can't be combined with --config, which may name a preset")

    @property
    def folder(self) -> Path:
        """The folder for all results."""
        return Path(self.output_dir)


def read_settings(argv: Sequence[str]) -> tuple[BenchSettings, list[Subject]]:
    """Read the command line, and check everything that needs no library; return the subjects too."""
    settings = parser.read_settings(BenchSettings, argv, prog="python -m dreambooth.bench", description=__doc__)
    found = dreambench.read(settings.data)
    if unknown := [name for name in settings.subjects if name not in {each.name for each in found}]:
        known = ", ".join(each.name for each in found)
        raise BadInput(f"--subjects {' '.join(unknown)}: not in the set, which has {known}")
    subjects = [each for each in found if not settings.subjects or each.name in settings.subjects]
    for option, path in settings.instruments.items():
        hub.check_place(path, option)
    pipeline_folder.check_draws(settings.model, flag="--model")
    given = documents.read(settings.config, "--config") if settings.config else {}
    if overruled := sorted(_OWN & given.keys() if isinstance(given, dict) else ()):
        console.warn(f"--config {settings.config}: the benchmark gives its own {', '.join(overruled)}")
    disk.check_writable(settings.folder, "--output_dir")
    for subject in subjects:
        training_flags(settings, subject)  # which refuses bad settings before the first run
    return settings, subjects


def training_flags(settings: BenchSettings, subject: Subject) -> list[str]:
    """Return the command line that teaches the model a subject."""
    line = [
        *(("--config", settings.config) if settings.config else ()),
        *(("--preset", settings.preset) if settings.preset else ()),
        *("--pretrained_model_name_or_path", settings.model),
        *("--instance_data_dir", str(subject.folder)),
        *("--instance_prompt", f"a photo of {settings.identifier} {subject.class_name}"),
        *("--output_dir", str(settings.folder / subject.name / "model")),
        *("--seed", str(settings.seed)),
        *("--resume_from_checkpoint", "latest"),
    ]
    class_prompt = ("--class_prompt", f"a photo of a {subject.class_name}")
    class_folder = ("--class_data_dir", str(settings.folder / "classes" / subject.class_name.replace(" ", "_")))
    config = parser.read_config([*line, *class_prompt, *class_folder], None)
    if config.concepts.keeps_class:
        line += class_prompt
    return [*line, *class_folder] if config.concepts.with_prior_preservation else line


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings, subjects = read_settings(argv)
    _claim(settings)
    libraries.load(weight_files.READERS, settings.verbose)
    loading.check_draws(settings.model, "--model")  # which may have to be fetched
    cards.check_precision(settings.mixed_precision)
    clip = Clip(settings.clip_model_path)
    dino = Dino(settings.dino_model_path) if settings.dino_model_path else None
    tuned: list[Figures] = []
    real: list[Figures] = []
    for number, subject in enumerate(subjects, 1):
        path = settings.folder / subject.name / _FIGURES
        if (found := _figures_in(path)) is None:
            console.print_message(f"subject   {number} of {len(subjects)}: {subject.name}, a {subject.class_name}")
            found = _measure(settings, subject, _draw(settings, subject), clip, dino)
            atomic.write_json(path, found)
            libraries.release_memory()
        if not settings.keep_models:
            atomic.remove(settings.folder / subject.name / "model")
        tuned.append(found["fine-tuned"])
        real.append(found["real pictures"])
        said = ", ".join(f"{name} {value:.3f}" for name, value in tuned[-1].items() if value is not None)
        console.print_message(f"figures   {subject.name}: {said}")
    rows = {"this run": dreambench.means(tuned), "this run: real pictures": dreambench.means(real)}
    report = {"means": rows, "subjects": {each.name: figures for each, figures in zip(subjects, tuned)}}
    atomic.write_json(settings.folder / _FIGURES, report)
    print(dreambench.table(rows, len(subjects)))
    print(f"figures   {settings.folder / _FIGURES}")


def _figures_in(path: Path) -> dict[str, Figures] | None:
    """Read the figures of a subject; None where there are none, or damaged ones."""
    try:
        found = dict(atomic.read_json(path))
        rows = found["fine-tuned"], found["real pictures"]
        return found if all(set(dreambench.MEASURES) <= each.keys() for each in rows) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _claim(settings: BenchSettings) -> None:
    """Refuse a folder with the results of other settings; note those of this run there."""
    own: dict[str, Any] = {name: value for name, value in vars(settings).items() if name not in _UNMEASURED}
    if settings.config:
        own["config"] = hashlib.sha256(Path(settings.config).read_bytes()).hexdigest()
    own["data"] = hashlib.sha256(dreambench.list_of(settings.data).read_bytes()).hexdigest()
    path = settings.folder / _SETTINGS
    if path.exists():
        try:
            before = dict(atomic.read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"--output_dir {settings.folder}: its {_SETTINGS} can't be read ({error})") from None
        if changed := sorted(name for name in own if before.get(name) != own[name]):
            raise BadInput(
                f"--output_dir {settings.folder}: it holds a benchmark with another --{', --'.join(changed)};"
                " give a new folder"
            )
    atomic.write_json(path, own)


def _train(settings: BenchSettings, subject: Subject) -> None:
    """Teach the model a subject in a process of its own, which frees all of its memory.

    Where this command was killed, the training that it began may be still running, and comes to its end first.
    """
    _wait_for(settings.folder / subject.name / "model")
    with console.StopRequest() as stop:
        process = subprocess.Popen([sys.executable, str(_SCRIPT), *training_flags(settings, subject)])
        is_told = False
        while process.poll() is None:
            if stop.signal == signal.SIGTERM and not is_told:  # Ctrl-C reaches it by itself; it writes its checkpoint
                process.terminate()
                is_told = True
            time.sleep(_SECONDS)
    if stop.signal:
        raise Stopped("stopped by a signal; the same command goes on", code=128 + stop.signal)
    if process.returncode:
        raise Stopped(f"the training of {subject.name} ended with code {process.returncode}", code=1)


def _wait_for(folder: Path) -> None:
    """Wait until no other run writes into a folder."""
    is_told = False
    while True:
        with contextlib.suppress(BadInput), output_folder.claimed(str(folder)):
            return
        if not is_told:
            console.print_message(f"waiting   for a run that writes into {folder}")
            is_told = True


def _draw(settings: BenchSettings, subject: Subject) -> list[list[Image]]:
    """Teach the model a subject, and draw the pictures of each prompt, as far as they are not there; return all."""
    prompts = subject.prompts(settings.identifier)[: settings.num_prompts]
    folder = settings.folder / subject.name / "pictures"
    requests = sampling.requests_for(prompts, settings.num_images)
    paths = [folder / f"{index}-{number}.png" for index in range(len(prompts)) for number in range(settings.num_images)]
    pictures = {path: _picture_in(path) for path in paths}
    missing = [(path, request) for path, request in zip(paths, requests) if pictures[path] is None]
    if missing:
        _train(settings, subject)
        source = loading.Source(str(settings.folder / subject.name / "model"))
        family = loading.load_family(source, "--output_dir")
        if kind := cards.half(settings.mixed_precision):
            loading.to_half(family.networks(), kind)
        drawing = sampling.draw(
            family, settings.draw_settings(family.default_size), [request for _, request in missing]
        )
        with disk.explained(lambda: "the same command goes on"):
            bar = console.progress_bar(drawing, total=len(missing), desc=f"Drawing, {subject.name}")
            for picture, (path, (prompt, number)) in zip(bar, missing):
                atomic.write_picture(path, picture, {"prompt": prompt, "picture": number, "seed": settings.seed})
                pictures[path] = picture
    drawn = [picture for picture in pictures.values() if picture is not None]
    return [drawn[first : first + settings.num_images] for first in range(0, len(drawn), settings.num_images)]


def _picture_in(path: Path) -> Image | None:
    """Read a picture; None where there is none, or a damaged one."""
    try:
        return picture_files.open_picture(path)
    except (BadInput, OSError):
        return None


def _measure(
    settings: BenchSettings, subject: Subject, groups: Sequence[Sequence[Image]], clip: Clip, dino: Dino | None
) -> dict[str, Figures]:
    """Measure the drawn pictures, and the subject's own among each other."""
    files, _ = picture_files.find_pictures(str(subject.folder), "--data")
    own = [picture_files.open_picture(file.path) for file in files]
    prompts = subject.prompts(settings.identifier)[: len(groups)]
    requests = [Request(prompt, list(range(len(own)))) for prompt in prompts]
    texts = clip.encode_prompts([rare_words.without(prompt, settings.identifier) for prompt in prompts])
    vectors, rows = clip.encode_pictures(own), [clip.encode_pictures(group) for group in groups]
    of_model = measures.measure_model(rows, vectors[:0], vectors, requests, texts)
    found: dict[str, Figures] = {
        "fine-tuned": {"DINO": None, "CLIP-I": of_model["CLIP-I"], "CLIP-T": of_model["CLIP-T"]},
        "real pictures": {"DINO": None, "CLIP-I": measures.fidelity_of_subject(vectors, requests), "CLIP-T": None},
    }
    if dino:
        looks = dino.encode_pictures(own)
        drawn = [dino.encode_pictures(group) for group in groups]
        found["fine-tuned"]["DINO"] = measures.fidelity(drawn, looks, requests)
        found["real pictures"]["DINO"] = measures.fidelity_of_subject(looks, requests)
    return found


if __name__ == "__main__":
    console.run_command(main)
