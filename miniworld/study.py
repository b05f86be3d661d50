"""What DreamBooth does to the embedded model, in figures: each subject is taught with several settings and seeds.

    python -m miniworld.study                                             # all, into ./study; goes on where it stopped
    python -m miniworld.study --subjects dog --seeds 0 --settings prior   # some of it

It runs train_dreambooth.py's own code with the settings of run_single.sh, and measures as dreambooth.metrics does, with
the embedded CLIP. Two figures more are known only in a drawn world: in how many pictures the scene is the one that was
asked for, and in how many the subject is there: its class in its colour, with a mark and with a hat.
"""

import json
from pathlib import Path

from dreambooth import metrics
from dreambooth.config.parser import Parser
from dreambooth.drawing import measures
from dreambooth.drawing.clip import Clip
from dreambooth.drawing.measures import Request
from dreambooth.models import loading
from dreambooth.run import output_folder
from dreambooth.system import console, libraries
from miniworld import CLIP, MODEL, judge, photograph, world

# as in run_single.sh
TRAINING = {
    "resolution": 64,
    "train_batch_size": 4,
    "learning_rate": 3e-4,
    "max_train_steps": 250,
}
PRIOR = {"with_prior_preservation": None, "num_class_images": 48}
SETTINGS = {
    "plain": {},
    "prior": PRIOR,
    "prior and text encoder": {**PRIOR, "train_text_encoder": None, "text_encoder_lr": 3e-5},
}
COUNT, CLASS_COUNT = 4, 16


def prompts(subject):
    return [f"a photo of sks {subject} {scene}" for scene in world.UNSEEN]


def flags(settings):
    """{"a": 1, "b": None} as --a 1 --b."""
    return [
        part for name, value in settings.items() for part in (f"--{name}", *([] if value is None else [str(value)]))
    ]


def train(subject, settings, seed, folder, model=MODEL):
    """Teach the model a subject; returns the folder of the result."""
    import train_dreambooth

    pictures, result = folder / subject / "pictures", folder / subject / f"{slug(settings)}-{seed}"
    if not pictures.is_dir():
        photograph.training_pictures(subject, pictures)
    if not (result / "model_index.json").exists():
        flagged = {
            "pretrained_model_name_or_path": model,
            "instance_data_dir": pictures,
            "instance_prompt": f"a photo of sks {subject}",
            "class_prompt": f"a photo of a {subject}",
            "class_data_dir": folder / subject / "class",
            "output_dir": result,
            "seed": seed,
            **TRAINING,
            **SETTINGS[settings],
        }
        if "with_prior_preservation" not in flagged:
            del flagged["class_prompt"], flagged["class_data_dir"]
        train_dreambooth.main(flags(flagged))
    return result


def slug(settings):
    return settings.replace(" ", "-")


class Judge:
    """Measures models; what real pictures reach, and the base, are measured once for each subject."""

    def __init__(self):
        from miniworld.detector import Detector

        self.clip, self.detector = Clip(str(CLIP), flag="CLIP"), Detector.load()

    def real(self, subject):
        """The subject's own pictures in the scenes that it was not photographed in."""
        first = photograph.FIRST_MEASURED
        numbers = range(first, first + COUNT)
        return [[world.photograph(subject, scene, 0, number) for number in numbers] for scene in world.UNSEEN]

    def compared(self, subject):
        """(unit vectors of the subject's pictures, the prompts with their share of them, unit vectors of the texts)."""
        vectors = self.clip.encode_pictures([picture for group in self.real(subject) for picture in group])
        wanted = [
            Request(prompt, list(range(index * COUNT, (index + 1) * COUNT)))
            for index, prompt in enumerate(prompts(subject))
        ]
        return vectors, wanted, self.clip.encode_prompts([metrics.without(each.prompt, "sks") for each in wanted])

    def figures(self, subject, groups, of_class):
        """All figures of one model's pictures: a group for each scene, and those of the class prompt."""
        vectors, wanted, texts = self.compared(subject)
        rows = [self.clip.encode_pictures(group) for group in groups]
        class_rows = self.clip.encode_pictures(of_class)
        everything = [picture for group in groups for picture in group]
        look = world.SUBJECTS[subject]
        return {
            **measures.measure_model(rows, class_rows, vectors, wanted, texts),
            "scene right": self.scenes_right(subject, groups),
            "subject shown": float((self.detector.shows(everything, look) > 0.5).mean()),
            "class shows subject": float((self.detector.shows(of_class, look) > 0.5).mean()),
        }

    def figures_of_real(self, subject):
        vectors, wanted, texts = self.compared(subject)
        groups = self.real(subject)
        everything = [picture for group in groups for picture in group]
        return {
            **measures.measure_subject(vectors, wanted, texts),
            "scene right": self.scenes_right(subject, groups),
            "subject shown": float((self.detector.shows(everything, world.SUBJECTS[subject]) > 0.5).mean()),
            "class shows subject": None,
        }

    def scenes_right(self, subject, groups):
        """The share of pictures whose scene is the one that was asked for."""
        pictures = [picture for group in groups for picture in group]
        wanted = [scene for scene, group in zip(world.UNSEEN, groups) for _ in group]
        return judge.share_equal(judge.scenes_named(self.clip, pictures, [subject] * len(pictures)), wanted)

    def draw(self, pipeline, subject):
        """(a group of pictures for each scene, pictures of the class prompt)."""
        asked = [(prompt, number) for prompt in prompts(subject) for number in range(COUNT)]
        asked += [(f"a photo of a {subject}", number) for number in range(CLASS_COUNT)]
        pictures = judge.draw(pipeline, asked)
        split = COUNT * len(world.UNSEEN)
        return [pictures[first : first + COUNT] for first in range(0, split, COUNT)], pictures[split:]

    def measure(self, folder, subject):
        return self.figures(subject, *self.draw(loading.load_pipeline(str(folder)), subject))


def mean(rows):
    """The mean of each figure over several runs."""
    return {name: measures.mean_of_known(row[name] for row in rows) for name in rows[0]}


def table(columns):
    """The figures as a table for a README: {column: {figure: value}}."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for figure in next(iter(columns.values())):
        values = [row.get(figure) for row in columns.values()]
        lines.append(f"| {figure} | " + " | ".join("–" if value is None else f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def main(argv):
    parser = Parser(prog="python -m miniworld.study", description=__doc__)
    add = parser.add_argument
    add("--subjects", nargs="+", choices=world.SUBJECTS, default=list(world.SUBJECTS)[:3])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add(
        "--folder",
        type=Path,
        default=Path("study"),
        metavar="TEXT",
        help="where models and figures go (default: study)",
    )
    arguments = parser.parse_args(argv)
    libraries.load()
    judge = Judge()
    found = {"base": [], **{name: [] for name in arguments.settings}, "real pictures": []}
    for subject in arguments.subjects:
        found["real pictures"].append(judge.figures_of_real(subject))
        found["base"].append(measured(judge, MODEL, subject, arguments.folder / subject / "base.json"))
        for settings in arguments.settings:
            for seed in arguments.seeds:
                result = train(subject, settings, seed, arguments.folder)
                found[settings].append(measured(judge, result, subject, result / "figures.json"))
    print(table({name: mean(rows) for name, rows in found.items()}))


def measured(judge, model, subject, place):
    """The figures of a model, kept in a file."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(output_folder.as_text(judge.measure(model, subject)), encoding="utf-8")
    return json.loads(place.read_text(encoding="utf-8"))


if __name__ == "__main__":
    console.run_command(main)
