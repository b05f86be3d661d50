"""Tiny runs of the commands, made once: what came out of them, and the random streams that they made."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from safetensors import safe_open

from support import public_face
from support.commands import python
from support.pictures import draw_pictures

# runs commands one after another, and writes down the keys of the random streams that the project makes in each
RECORD = """
import json, os, runpy, sys
import numpy
made, default_rng = [], numpy.random.default_rng
def record(key=None):
    caller = os.path.abspath(sys._getframe(1).f_code.co_filename)
    if caller.startswith(os.getcwd() + os.sep) and "site-packages" not in caller:  # .venv lies in the folder too
        made[-1].append(key)
    return default_rng(key)
numpy.random.default_rng = record
for command, *flags in json.loads(sys.argv[1]):
    made.append([])
    sys.argv[1:] = flags
    if command.endswith(".py"):
        runpy.run_path(command, run_name="__main__")
    else:
        runpy.run_module(command, run_name="__main__")
json.dump(made, open({file!r}, "w"))
"""
SEEDS = {"plain": 11, "lora": 12, "unidiffuser": 13, "infer": 14, "infer unidiffuser": 15, "identifier": 16}


class RecordedRuns:
    """Six tiny runs of the commands, made in one process: what came out, and the random streams that were made."""

    def __init__(self, folder: Path, twin: Path, unidiffuser: Path) -> None:
        self.folder, self.given = folder, {}
        draw_pictures(folder / "dog", 3)
        prior = dict(
            with_prior_preservation=True, class_prompt="a photo of a dog", num_class_images=2, prior_inference_steps=2
        )
        plain = dict(max_train_steps=3, save_steps=2, random_flip=True, train_batch_size=2, train_text_encoder=True)
        plain |= dict(
            validation_prompt=["sks dog", "a dog"], num_validation_images=2, class_data_dir="classes", **prior
        )
        lora = dict(lora_rank=2, lora_dropout=0.5, train_text_encoder=True, save_steps=1, learning_rate=None)
        other = dict(max_train_steps=1, save_format="diffusers", class_data_dir="unidiffuser-classes", **prior)
        other["no_last_checkpoint"] = True
        draw = f"--prompt a --num_inference_steps 2 --num_images 2 --output_dir {folder} --model_path".split()
        commands = [
            self.train("plain", twin, plain),
            self.train("lora", twin, lora),
            self.train("unidiffuser", unidiffuser, other),
            ["infer.py", *draw, str(twin), "--lora", str(folder / "lora"), "--scheduler", "euler_a"],
            ["infer.py", *draw, str(unidiffuser)],
            ["dreambooth.identifier", "--model", str(twin)],
        ]
        commands = [[*line, "--seed", str(seed)] for line, seed in zip(commands, SEEDS.values())]
        done = python("-c", RECORD.format(file=str(folder / "made.json")), json.dumps(commands))
        assert done.returncode == 0, done.stderr
        self.made = dict(zip(SEEDS, self.json("made.json")))

    def train(self, run: str, model: Path, changes: dict[str, Any]) -> list[str]:
        """Give the command line of a run, and keep its flags."""
        if "class_data_dir" in changes:
            changes["class_data_dir"] = str(self.folder / changes["class_data_dir"])
        self.given[run] = dict(
            pretrained_model_name_or_path=str(model),
            instance_data_dir=str(self.folder / "dog"),
            instance_prompt="a photo of sks dog",
            output_dir=str(self.folder / run),
            resolution=32,
            **{"max_train_steps": 2, "learning_rate": 1e-3, "train_batch_size": 1, **changes},
            seed=SEEDS[run],
        )
        line = ["train_dreambooth.py"]
        for name, value in self.given[run].items():
            for each in value if isinstance(value, list) else [value]:
                line += [f"--{name}"] if each is True else [f"--{name}", str(each)] if each is not None else []
        return line

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def tensors(self, name: str) -> set[str]:
        with safe_open(self.folder / name, "np") as file:
            return set(file.keys())

    def streams(self, run: str, *more: str) -> dict[str, set[tuple[int, ...]]]:
        """Give the keys of a run's streams by purpose; a purpose that is not listed here fails."""
        purposes = {zlib.crc32(purpose.encode()): purpose for purpose in (*public_face.PURPOSES, *more)}
        found: dict[str, set[tuple[int, ...]]] = {}
        for seed, purpose, length, *key in self.made[run]:
            assert seed == SEEDS[run] and length == len(key)
            found.setdefault(purposes[purpose], set()).add(tuple(key))
        return found
