"""Study DreamBooth on the embedded model, in figures: teach each subject with several settings and seeds.

    python -m miniworld.study                                             # all, in ./study; resumes after a stop
    python -m miniworld.study --subjects dog --seeds 0 --settings prior   # some of it

It runs the code of train_dreambooth.py with the settings of run_single.sh, and measures as dreambooth.metrics does,
with the embedded CLIP. Two further figures exist only in a drawn world. "scene right" is the share of pictures with the
scene of their prompt. "subject shown" is the share of pictures with the subject: its class and colour, a mark and a
hat.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config.parser import Parser
from dreambooth.data import rare_words
from dreambooth.drawing import measures
from dreambooth.drawing.clip import Clip
from dreambooth.drawing.measures import Request
from dreambooth.files import atomic, moves, weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries
from miniworld import judge, paths, photograph, world

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

    from dreambooth.models.families.base import Family
    from dreambooth.system.types import Array

    Pictures = Sequence[Image.Image]
    Figures = dict[str, float | None]

# as in run_single.sh
TRAINING = {
    "resolution": 64,
    "train_batch_size": 3,
    "learning_rate": 4.5e-4,
    "max_train_steps": 250,
    "ema_decay": 0.96,
}
PRIOR: dict[str, float | str | None] = {"with_prior_preservation": None, "num_class_images": 48}
SETTINGS: dict[str, dict[str, float | str | None]] = {
    "plain": {},
    "prior": PRIOR,
    "prior and text encoder": {**PRIOR, "train_text_encoder": None, "text_encoder_lr": 3e-5},
    "adafactor": {**PRIOR, "optimizer": "adafactor"},
    "adamw8bit": {**PRIOR, "optimizer": "adamw8bit"},
    "one scene": PRIOR,
    "one scene, masks": PRIOR,
    "one scene, masks alone": {**PRIOR, "unmasked_weight": 0},
}
# all pictures have one background; the second and the third have their masks
ONE_SCENE = ("one scene", "one scene, masks", "one scene, masks alone")
# what a study without --settings tries; the lean optimizers take more time
USUAL = ("plain", "prior", "prior and text encoder")
UNASKED = "training scene unasked"  # a figure of ONE_SCENE: the share of pictures of the prompt without a scene
COUNT, CLASS_COUNT = 4, 16  # pictures of a prompt, and of the class prompt


def prompts(words: str) -> list[str]:
    """Return the prompts for a subject, named by words such as "sks dog", in the scenes without training pictures."""
    return [f"a photo of {words} {scene}" for scene in world.UNSEEN]


def command_line(settings: Mapping[str, object]) -> list[str]:
    """Return {"a": 1, "b": None} as --a 1 --b."""
    return [
        part for name, value in settings.items() for part in (f"--{name}", *([] if value is None else [str(value)]))
    ]


def train(subject: str, settings: str, seed: int, folder: Path, model: Path = paths.MODEL) -> Path:
    """Teach the model a subject, unless the result exists; return the folder of the result."""
    import train_dreambooth

    pictures, masks = folder / subject / "pictures", folder / subject / "masks"
    result = folder / subject / f"{re.sub('[ ,]+', '-', settings)}-{seed}"
    if settings in ONE_SCENE:
        pictures = folder / subject / "pictures of one scene"
        photograph.write_pictures_of_one_scene(subject, pictures, masks)
    elif not pictures.is_dir():
        photograph.write_training_pictures(subject, pictures)
    if not (result / moves.INDEX).exists():
        flags = {
            "pretrained_model_name_or_path": model,
            "instance_data_dir": pictures,
            "instance_prompt": f"a photo of sks {subject}",
            "class_prompt": f"a photo of a {subject}",
            "class_data_dir": folder / subject / "class",
            "output_dir": result,
            "seed": seed,
            "no_last_checkpoint": None,
            **TRAINING,
            **SETTINGS[settings],
            **({"mask_dir": masks} if settings in ONE_SCENE[1:] else {}),
        }
        if "with_prior_preservation" not in flags:
            del flags["class_prompt"], flags["class_data_dir"]
        train_dreambooth.main(command_line(flags))
    return result


class Evaluator:
    """The embedded CLIP and detector, and their figures of a model's pictures.

    `words` name the subjects that are not called sks and their class.
    """

    def __init__(self, words: Mapping[str, str] | None = None) -> None:
        from miniworld.detector import Detector

        self._words = words or {}
        self.clip, self.detector = Clip(str(paths.CLIP), flag="CLIP"), Detector.load()

    def words(self, subject: str) -> str:
        """Return the words that name a subject."""
        return self._words.get(subject, f"sks {subject}")

    def photographs(self, subject: str) -> list[Pictures]:
        """Return a subject's own pictures in each of the scenes without training pictures."""
        first = photograph.FIRST_MEASURED
        numbers = range(first, first + COUNT)
        return [[world.photograph(subject, scene, 0, number) for number in numbers] for scene in world.UNSEEN]

    def figures(self, subject: str, groups: Sequence[Pictures], of_class: Pictures) -> Figures:
        """Measure a model by its pictures: a group for each scene, and those of the class prompt."""
        vectors, requests, texts = self._references(subject)
        rows = [self.clip.encode_pictures(group) for group in groups]
        return {
            **measures.measure_model(rows, self.clip.encode_pictures(of_class), vectors, requests, texts),
            **self._figures_of_world(subject, groups),
            "class shows subject": self._share_shown(subject, of_class),
        }

    def figures_of_photographs(self, subject: str) -> Figures:
        """Measure a subject's own pictures: the best figures that a model can reach."""
        vectors, requests, texts = self._references(subject)
        return {
            **measures.measure_subject(vectors, requests, texts),
            **self._figures_of_world(subject, self.photographs(subject)),
            "class shows subject": None,
        }

    def draw(self, family: Family, subject: str) -> tuple[list[Pictures], Pictures]:
        """Draw a group of pictures for each scene, and pictures of the class prompt."""
        requests = [(prompt, number) for prompt in prompts(self.words(subject)) for number in range(COUNT)]
        requests += [(f"a photo of a {world.LOOKS[subject].kind}", number) for number in range(CLASS_COUNT)]
        pictures = judge.draw(family, requests)
        split = COUNT * len(world.UNSEEN)
        return [pictures[first : first + COUNT] for first in range(0, split, COUNT)], pictures[split:]

    def measure(self, folder: Path, subject: str) -> Figures:
        """Draw with the model of a folder, and measure its pictures."""
        return self.figures(subject, *self.draw(loading.load_family(loading.Source(str(folder))), subject))

    def share_of_training_scene(self, folder: Path, subject: str) -> float:
        """Return the share of pictures of the prompt without a scene that have the one of ONE_SCENE's training."""
        family = loading.load_family(loading.Source(str(folder)))
        pictures = judge.draw(family, [(f"a photo of {self.words(subject)}", number) for number in range(CLASS_COUNT)])
        found = judge.classify_scenes(self.clip, pictures, [world.LOOKS[subject].kind] * len(pictures))
        return judge.accuracy(found, [world.SEEN[0]] * len(pictures))

    def _references(self, subject: str) -> tuple[Array, list[Request], Array]:
        """Return the vectors of a subject's own pictures, the prompts with their pictures, and the texts' vectors."""
        vectors = self.clip.encode_pictures(_flat(self.photographs(subject)))
        requests = [
            Request(prompt, list(range(index * COUNT, (index + 1) * COUNT)))
            for index, prompt in enumerate(prompts(self.words(subject)))
        ]
        identifier = self.words(subject).split()[0]
        texts = [rare_words.without(each.prompt, identifier) for each in requests]
        return vectors, requests, self.clip.encode_prompts(texts)

    def _figures_of_world(self, subject: str, groups: Sequence[Pictures]) -> dict[str, float]:
        pictures = _flat(groups)
        scenes = [scene for scene, group in zip(world.UNSEEN, groups) for _ in group]
        found = judge.classify_scenes(self.clip, pictures, [world.LOOKS[subject].kind] * len(pictures))
        return {"scene right": judge.accuracy(found, scenes), "subject shown": self._share_shown(subject, pictures)}

    def _share_shown(self, subject: str, pictures: Pictures) -> float:
        """Return the share of pictures that show the subject."""
        return float((self.detector.subject_probabilities(pictures, world.LOOKS[subject]) > 0.5).mean())


def _flat(groups: Sequence[Pictures]) -> Pictures:
    return [picture for group in groups for picture in group]


def measure_once(evaluator: Evaluator, model: Path, subject: str, path: Path, is_unasked: bool = False) -> Figures:
    """Measure a model, unless a file has its figures; also how often it draws the training scene unasked."""
    figures: Figures = atomic.read_json(path) if path.exists() else evaluator.measure(model, subject)
    if is_unasked and UNASKED not in figures:
        figures[UNASKED] = evaluator.share_of_training_scene(model, subject)
    if not path.exists() or figures != atomic.read_json(path):
        atomic.write_json(path, figures)
    return figures


def mean_figures(rows: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over several runs."""
    return {name: measures.mean_of_known(row[name] for row in rows) for name in rows[0]}


def table(columns: Mapping[str, Figures]) -> str:
    """Return the figures {column: {figure: value}} as a table in Markdown."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for figure in next(iter(columns.values())):
        values = [row.get(figure) for row in columns.values()]
        lines.append(f"| {figure} | " + " | ".join("–" if value is None else f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.study", description=__doc__)
    add = parser.add_argument
    subjects = list(world.SUBJECTS)[:3]
    add("--subjects", nargs="+", choices=world.SUBJECTS, default=subjects, help=f"default: {' '.join(subjects)}")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--settings", nargs="+", choices=SETTINGS, default=USUAL, help=f"default: {', '.join(USUAL)}")
    add("--folder", type=Path, default=Path("study"), metavar="TEXT", help="for models and figures (default: study)")
    arguments = parser.parse_args(argv)
    libraries.load(weight_files.READERS)
    evaluator, is_one_scene = Evaluator(), not {*ONE_SCENE}.isdisjoint(arguments.settings)
    found: dict[str, list[Figures]] = {"base": [], **{name: [] for name in arguments.settings}, "real pictures": []}
    for subject in arguments.subjects:
        found["real pictures"].append(evaluator.figures_of_photographs(subject))
        path = arguments.folder / subject / "base.json"
        found["base"].append(measure_once(evaluator, paths.MODEL, subject, path, is_one_scene))
        for settings in arguments.settings:
            for seed in arguments.seeds:
                result = train(subject, settings, seed, arguments.folder)
                path = result / "figures.json"
                found[settings].append(measure_once(evaluator, result, subject, path, is_one_scene))
    print(table({name: mean_figures(rows) for name, rows in found.items()}))


if __name__ == "__main__":
    console.run_command(main)
