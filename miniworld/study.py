"""Study DreamBooth on the embedded model, in figures: teach each subject with several settings and seeds.

    python -m miniworld.study                                             # all, in ./study; resumes after a stop
    python -m miniworld.study --subjects dog --seeds 0 --settings prior   # some of it

It runs train_dreambooth.py, and measures as dreambooth.metrics does, with the
embedded CLIP. Two further figures exist only in a drawn world. "scene right" is the share of pictures with the scene of
their prompt. "subject shown" is the share of pictures with the subject: its class and colour, a mark and a hat. "class
drift" is the share of the way to the subject's own pictures that those of the plain class prompt have come.

Figures are means over subjects and seeds; behind ± is their standard deviation over the seeds. A plot in the folder
shows fidelity and class drift of all settings.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config.commands import DrawSettings
from dreambooth.config.parser import Parser
from dreambooth.files import atomic, records, weight_files
from dreambooth.system import console, libraries
from dreambooth.system.errors import BadInput, Stopped
from miniworld import paths, photograph, tables, world
from miniworld.evaluator import Evaluator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from miniworld.evaluator import Figures

# the recipe of 2023
TRAINING = {
    "resolution": 64,
    "train_batch_size": 3,
    "learning_rate": 4.5e-4,
    "max_train_steps": 250,
    "ema_decay": 0.96,
}
PRIOR: dict[str, float | str | None] = {"with_prior_preservation": None, "num_class_images": 48}
# what learned best, as in run_single.sh: more noise, the text encoder too, less than half the rate, more updates
BEST: dict[str, float | str | None] = {
    **PRIOR,
    "train_text_encoder": None,
    "text_encoder_lr": 3e-5,
    "timestep_shift": 2,
    "learning_rate": 2e-4,
    "max_train_steps": 600,
    "ema_decay": 0.98,
}
NEW_WORD = "<sks>"
LORA: dict[str, float | str | None] = {"lora_rank": 8, "learning_rate": 2e-3}
SETTINGS: dict[str, dict[str, float | str | None]] = {
    "plain": {},
    "prior": PRIOR,
    "best": BEST,
    "prior and text encoder": {**PRIOR, "train_text_encoder": None, "text_encoder_lr": 3e-5},
    "adafactor": {**PRIOR, "optimizer": "adafactor"},
    "adamw8bit": {**PRIOR, "optimizer": "adamw8bit"},
    "prodigy": {**PRIOR, "optimizer": "prodigy", "learning_rate": 1},
    "lion": {**PRIOR, "optimizer": "lion", "learning_rate": 9e-5},
    "warm-up": {**PRIOR, "lr_warmup_steps": 25},
    "cosine": {**PRIOR, "lr_scheduler": "cosine"},
    "Huber": {**PRIOR, "loss_type": "huber"},
    "Min-SNR": {**PRIOR, "snr_gamma": 5},
    "more noise": {**PRIOR, "timestep_shift": 2},
    "less noise": {**PRIOR, "timestep_shift": 0.5},
    "middle noise": {**PRIOR, "timestep_sampling": "logit_normal"},
    "no little noise": {**PRIOR, "min_timestep": 100},
    "noise offset": {**PRIOR, "noise_offset": 0.05},
    "input perturbation": {**PRIOR, "input_perturbation": 0.1},
    "class pictures by prediction": {**PRIOR, "prior_by_prediction": None},
    "class by prediction": {"prior_by_prediction": None},
    "keys and values": {**PRIOR, "trained_layers": "key_value", "learning_rate": 2e-3},
    "new word alone": {"learn_identifier": "alone", "learning_rate": 2e-2},
    "new word": {**PRIOR, "learn_identifier": "jointly", "identifier_lr": 2e-2},
    "new word, keys and values": {
        **PRIOR,
        "learn_identifier": "jointly",
        "identifier_lr": 2e-2,
        "trained_layers": "key_value",
        "learning_rate": 2e-3,
    },
    "LoRA of attention": {**PRIOR, **LORA},
    "LoRA": {**PRIOR, **LORA, "lora_targets": "all"},
    "LoRA, more noise": {
        **PRIOR,
        **LORA,
        "lora_targets": "all",
        "timestep_shift": 2,
        "max_timestep": 850,
        "max_train_steps": 225,
    },
    "LoRA, Huber": {**PRIOR, **LORA, "lora_targets": "all", "loss_type": "huber"},
    "LoRA, class by prediction": {**LORA, "lora_targets": "all", "prior_by_prediction": None},
    "LoRA, dropout": {**PRIOR, **LORA, "lora_targets": "all", "lora_dropout": 0.1},
    "rsLoRA": {**PRIOR, **LORA, "lora_targets": "all", "learning_rate": 1e-3, "use_rslora": None},
    "DoRA": {**PRIOR, **LORA, "lora_targets": "all", "use_dora": None},
    "LoRA+": {**PRIOR, **LORA, "lora_targets": "all", "learning_rate": 1e-3, "loraplus_lr_ratio": 8},
    "one scene": PRIOR,
    "one scene, masks": PRIOR,
    "one scene, masks alone": {**PRIOR, "unmasked_weight": 0},
}
# all pictures have one background; the second and the third have their masks
ONE_SCENE = ("one scene", "one scene, masks", "one scene, masks alone")
# what a study without --settings tries; the lean optimizers take more time
USUAL = ("plain", "prior", "prior and text encoder")
_USAGE = "usage.json"  # of a run: its time and its memory
UNASKED = "training scene unasked"  # a figure of ONE_SCENE: the share of pictures of the prompt without a scene


def command_line(settings: Mapping[str, object]) -> list[str]:
    """Return {"a": 1, "b": None, "c": [2, 3]} as --a 1 --b --c 2 --c 3."""
    return [
        part
        for name, values in settings.items()
        for value in (values if isinstance(values, list) else [values])
        for part in (f"--{name}", *([] if value is None else [str(value)]))
    ]


def train(subject: str, settings: str, seed: int, folder: Path, model: Path = paths.MODEL) -> Path:
    """Teach the model a subject, unless the result exists; return the folder of the result."""
    result = folder / subject / f"{re.sub('[ ,]+', '-', settings)}-{seed}"
    if not (result / records.RESULT).exists():
        gigabytes = run(flags(subject, settings, seed, result, model))
        atomic.write_json(result / _USAGE, {"minutes": _minutes(result), "GB": gigabytes})
    return result


def flags(subject: str, settings: str, seed: int, result: Path, model: Path = paths.MODEL) -> dict[str, object]:
    """Return the flags of a run into a folder, beside which its pictures are written."""
    folder = result.parent
    pictures, masks = folder / "pictures", folder / "masks"
    if settings in ONE_SCENE:
        pictures = folder / "pictures of one scene"
        photograph.write_pictures_of_one_scene(subject, pictures, masks)
    elif not pictures.is_dir():
        photograph.write_training_pictures(subject, pictures)
    found: dict[str, object] = {
        "pretrained_model_name_or_path": model,
        "instance_data_dir": pictures,
        "instance_prompt": f"a photo of {NEW_WORD if _learns_word(settings) else 'sks'} {subject}",
        "class_prompt": f"a photo of a {subject}",
        "class_data_dir": folder / "class",
        "output_dir": result,
        "seed": seed,
        "no_last_checkpoint": None,
        **TRAINING,
        **SETTINGS[settings],
        **({"mask_dir": masks} if settings in ONE_SCENE[1:] else {}),
    }
    if "with_prior_preservation" not in found:
        del found["class_data_dir"]
    if not {"with_prior_preservation", "prior_by_prediction"} & found.keys():
        del found["class_prompt"]
    return found


def _learns_word(settings: str) -> bool:
    """Check whether subjects are named by a new word."""
    return "learn_identifier" in SETTINGS[settings]


def run(settings: Mapping[str, object]) -> float:
    """Train in another process, and return its peak memory in gigabytes."""
    line = command_line(settings)
    process = subprocess.Popen([sys.executable, str(paths.ROOT / "train_dreambooth.py"), *line])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise Stopped("the training failed", code=1)
    return used.ru_maxrss * 1024 / 1e9


def _minutes(result: Path) -> float:
    """Return the time of a run from the opening of its log, which has the second in its name, to its result.

    So the class pictures do not count, which the first of several runs draws for all.
    """
    begins = [int(match[1]) for path in (result / "logs").iterdir() if (match := re.search(r"\.(\d+)\.", path.name))]
    return ((result / records.RESULT).stat().st_mtime - min(begins)) / 60


def measure_once(evaluator: Evaluator, model: Path, subject: str, path: Path, is_unasked: bool = False) -> Figures:
    """Measure a model, unless a file has its figures; also how often it draws the training scene unasked."""
    figures: Figures = atomic.read_json(path) if path.exists() else evaluator.measure(model, subject)
    if is_unasked and UNASKED not in figures:
        figures[UNASKED] = evaluator.share_of_training_scene(model, subject)
    if not path.exists() or figures != atomic.read_json(path):
        atomic.write_json(path, figures)
    return figures


def add_runs(parser: Parser) -> None:
    """Add the flags that choose the runs of a study."""
    add = parser.add_argument
    subjects = list(world.SUBJECTS)[:3]
    add("--subjects", nargs="+", choices=world.SUBJECTS, default=subjects, help=f"default: {' '.join(subjects)}")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.study", description=__doc__)
    add = parser.add_argument
    add_runs(parser)
    add("--settings", nargs="+", choices=SETTINGS, default=USUAL, help=f"default: {', '.join(USUAL)}")
    add("--folder", type=Path, default=Path("study"), metavar="TEXT", help="for models and figures (default: study)")
    usual = DrawSettings.guidance
    add("--guidance_scale", type=float, default=usual, metavar="X", help=f"weight of the prompt (default: {usual})")
    arguments = parser.parse_args(argv)
    guidance, is_one_scene = arguments.guidance_scale, not {*ONE_SCENE}.isdisjoint(arguments.settings)
    if not 0 <= guidance < math.inf:
        raise BadInput(f"--guidance_scale {guidance}: must be at least 0, and finite")
    suffix = "" if guidance == usual else f"-{guidance}"  # of the files with figures
    libraries.load(weight_files.READERS)
    new_words = any(map(_learns_word, arguments.settings))
    evaluator = of_new_words = Evaluator(guidance=guidance)
    if new_words:
        of_new_words = Evaluator({name: f"{NEW_WORD} {name}" for name in world.SUBJECTS}, guidance=guidance)
    found: dict[str, dict[int, list[Figures]]] = {"base": {0: []}}
    found |= {name: {seed: [] for seed in arguments.seeds} for name in arguments.settings}
    found["real pictures"] = {0: []}
    for subject in arguments.subjects:
        real = evaluator.figures_of_photographs(subject)
        path = arguments.folder / subject / f"base{suffix}.json"
        base = measure_once(evaluator, paths.MODEL, subject, path, is_one_scene)
        found["real pictures"][0].append(tables.with_shares(real, base, real))
        found["base"][0].append(tables.with_shares(base, base, real))
        for settings in arguments.settings:
            for seed in arguments.seeds:
                result = train(subject, settings, seed, arguments.folder)
                judge = of_new_words if _learns_word(settings) else evaluator
                figures = measure_once(judge, result, subject, result / f"figures{suffix}.json", is_one_scene)
                used = atomic.read_json(result / _USAGE) if (result / _USAGE).exists() else {}
                found[settings][seed].append({**tables.with_shares(figures, base, real), **used})
    values = {name: tables.values_of(by_seed) for name, by_seed in found.items()}
    plot = arguments.folder / f"front{suffix}.png"
    atomic.write_picture(plot, tables.front({name: values[name] for name in arguments.settings}))
    print(tables.table_of_rows(values))
    print(f"plot           {plot}")


if __name__ == "__main__":
    console.run_command(main)
