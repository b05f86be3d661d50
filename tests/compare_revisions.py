"""A comparison of two revisions on one machine: the same tiny runs by command line, then every file that came out.

    python tests/compare_revisions.py e2f879b               # that revision and the working tree
    python tests/compare_revisions.py e2f879b some-branch

Weights are compared tensor by tensor, pictures by pixels and text, JSON by values, logs by their numbers, all else by
bytes. The second revision resumes, draws and exports from the files of the first one, so old files are read too.
Prints a line for each file that differs, then `equal` (exit code 0) or `N differences` (exit code 1). Three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MOST_SHOWN = 3  # differing values of one file
MEASURED = {"pictures_per_second", "memory_gb"}  # figures that differ from run to run
HAVE_TIMES = (".log", ".jsonl", ".html")

# Each revision runs in a folder beside the inputs. What a later run reads is always the first revision's (../one).
TRAIN = (
    "train_dreambooth.py --instance_data_dir ../inputs/dog --instance_prompt 'a photo of sks dog' --resolution 32"
    " --learning_rate 1e-3"
)
PRIOR = "--with_prior_preservation --class_prompt 'a photo of a dog' --prior_inference_steps 2"
PLAIN = (
    f"{TRAIN} {PRIOR} --pretrained_model_name_or_path ../inputs/twin --train_text_encoder --text_encoder_lr 5e-4"
    " --num_class_images 3 --seed 5 --train_batch_size 1 --gradient_accumulation_steps 2 --max_train_steps 4"
    " --save_steps 2 --random_flip --lr_scheduler cosine --lr_warmup_steps 1 --max_grad_norm 0.5 --validation_steps 2"
    " --num_validation_images 2 --validation_prompt 'sks dog' --validation_prompt dog"
)
LORA = (
    f"{TRAIN} --pretrained_model_name_or_path ../inputs/velocity --train_text_encoder --lora_rank 2 --lora_alpha 3"
    " --lora_dropout 0.5 --seed 6 --max_train_steps 3 --save_steps 2 --center_crop"
)
INFER = "infer.py --num_inference_steps 3 --prompt 'a photo of sks dog'"
EXPORT = "-m dreambooth.export --format"

# name -> command line; what the training runs print is not compared
RUNS = {
    "plain": f"{PLAIN} --class_data_dir classes --output_dir plain",
    "plain, resumed": (
        f"{PLAIN} --class_data_dir ../one/classes --output_dir resumed"
        " --resume_from_checkpoint ../one/plain/checkpoint-2"
    ),
    "LoRA in two processes": (
        f"-m paddle.distributed.launch --nproc_per_node 2 --log_dir ../launcher {LORA} --train_batch_size 1"
        " --no_cache_latents --output_dir lora --lora_merge --save_format safetensors"
    ),
    "LoRA, resumed in one process": (
        f"{LORA} --train_batch_size 2 --output_dir lora-alone --resume_from_checkpoint ../one/lora/checkpoint-2"
    ),
    "UniDiffuser": (
        f"{TRAIN} {PRIOR} --pretrained_model_name_or_path ../inputs/unidiffuser --seed 7 --train_batch_size 2"
        " --max_train_steps 2 --save_steps 1 --checkpoints_total_limit 1 --save_format diffusers"
        " --num_class_images 2 --class_data_dir unidiffuser-classes --output_dir unidiffuser"
    ),
    "infer": (
        f"{INFER} 'a dog at night' --model_path ../one/plain --num_images 2 --seed 1 --negative_prompt blurry --grid"
        " --output_dir drawn"
    ),
    "infer, LoRA": (
        f"{INFER} --model_path ../one/lora-alone --lora_scale 0.5 --seed 2 --scheduler euler_a --output drawn/lora.png"
    ),
    "infer, UniDiffuser": (
        f"{INFER} --model_path ../one/unidiffuser --scheduler dpmsolver++ --seed 3 --output_dir drawn/unidiffuser"
    ),
    "export, diffusers": f"{EXPORT} diffusers --model_path ../one/plain --output diffusers",
    "export, single_file": f"{EXPORT} single_file --half --model_path ../one/lora --output single_file.safetensors",
    **{
        f"export, {form}": f"{EXPORT} {form} --model_path ../one/lora-alone --output {form}.safetensors"
        for form in ("lora_paddle", "lora_diffusers", "lora_web_ui")
    },
    "identifier": "-m dreambooth.identifier --model ../inputs/miniworld/model --count 5 --seed 1",
    "metrics": (
        "-m dreambooth.metrics --model_path ../one/plain --base_model_path ../inputs/twin --subject_data_dir"
        " ../inputs/dog --clip_model_path ../inputs/miniworld/clip --num_images 2 --num_class_images 2"
        " --num_inference_steps 2 --identifier sks --class_prompt dog --prompt 'a photo of sks dog' 'sks dog at night'"
        " --json measures/figures.json --sheet measures/sheet.png --pictures_dir measures"
    ),
}


def build_inputs(folder: Path) -> None:
    """Make the models and pictures of all runs with the builders of the tests; called in a process of its own."""
    from support.pictures import draw_pictures
    from support.twins import build_twin, build_unidiffuser

    build_twin(folder / "twin")
    velocity = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
    build_twin(folder / "velocity", "open_clip", "v_prediction", "DDIMScheduler", **velocity)
    build_unidiffuser(folder / "unidiffuser")
    draw_pictures(folder / "dog", 5, (48, 40))
    for part in ("model", "clip"):
        shutil.copytree(ROOT / "miniworld" / part, folder / "miniworld" / part)


def export_revision(revision: str | None, folder: Path) -> None:
    """Write the files of a revision, or of the working tree (None), into a new folder."""
    if revision is not None:
        archive = folder.with_suffix(".zip")
        subprocess.run(["git", "-C", ROOT, "archive", "-o", archive, revision], check=True)
        return shutil.unpack_archive(archive, folder)
    listing = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0"):
        if (ROOT / name).is_file():  # a deleted file is still listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def run_all(code: Path, folder: Path) -> dict[str, str]:
    """Make all runs with the code of one folder in another folder; {run: what went wrong}."""
    failures = {}
    (folder / "printed").mkdir(parents=True)
    for name, line in RUNS.items():
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, *(str(code / each) if each.endswith(".py") else each for each in shlex.split(line))],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(code)},
            capture_output=True,
            encoding="utf-8",
            timeout=600,
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            failures[name] = f"exit code {done.returncode}: {''.join(last)}"
        if "train_dreambooth.py" not in line:
            (folder / "printed" / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
        print(f"{folder.name}   {name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return failures


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read the tensors by the format's definition, so that neither revision's reader has a say."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    found: dict[str, Any] = {"__metadata__": header.pop("__metadata__", None)}
    for name, each in header.items():
        first, last = each["data_offsets"]
        kind = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4"}.get(each["dtype"], "u1")
        found[f"kind of {name}"] = each["dtype"], each["shape"]
        found[name] = np.frombuffer(data[begin + first : begin + last], kind)
    return found


def read_pickled(path: Path) -> dict[str, Any]:
    """Read the arrays of a file that one of the two revisions has just written."""
    return dict(pickle.loads(path.read_bytes()))


def read_json(path: Path) -> dict[str, Any]:
    return dict(flatten(json.loads(path.read_text(encoding="utf-8"))))


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give each value of a JSON document with the way to it; but for the time of writing, and checksums."""
    if isinstance(value, dict | list) and value:
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ("written_ns", "checksum", "checksums"):  # files are compared themselves
                yield from flatten(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def read_png(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        text = {f"text of {key}": value for key, value in image.info.items()}
        return {"pixels": np.asarray(image), "mode": image.mode, **text}


def read_log(path: Path) -> dict[str, Any]:
    """Read the numbers of a log, but for those that are times or bytes of memory."""
    from visualdl import LogReader

    reader = LogReader(file_path=str(path))
    tags = reader.get_tags()
    found: dict[str, Any] = {kind: sorted(names) for kind, names in tags.items()}
    for tag in tags.get("scalar", []):
        if tag.rpartition("/")[2] in MEASURED:
            continue
        found |= {f"{tag} at {each.id}": each.value for each in reader.get_data("scalar", tag)}
    return found


def read_lines(path: Path) -> dict[str, Any]:
    """Read the figures of a run's file of lines, but for those that are times or bytes of memory."""
    found: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for group in row.keys() - {"step"}:
            figures = {name: value for name, value in row[group].items() if name not in MEASURED}
            found[f"{group} at {row['step']}"] = sorted(figures.items())
    return found


def read_page(path: Path) -> dict[str, Any]:
    """Read the sentences of a report, but for numbers; it shows times and places too."""
    words = re.sub(r"<style>.*?</style>|<script>.*?</script>|<svg.*?</svg>|<[^>]+>", " ", path.read_text(), flags=re.S)
    return {"headings": [each.strip() for each in words.splitlines() if each.strip().isalpha()]}


# each gives {item: value or array}
READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    **{".safetensors": read_safetensors, ".pdparams": read_pickled},
    **{".json": read_json, ".png": read_png, ".log": read_log, ".jsonl": read_lines, ".html": read_page},
}


def list_files(folder: Path) -> dict[str, Path]:
    """All files by their names, in which the time of a log's start is left out."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"vdlrecords\.\d+", "vdlrecords", str(path.relative_to(folder))): path for path in files}


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return type(one) is type(other) and bool(one == other)


def describe(name: str, one: Any, other: Any) -> str:
    """Say how an item differs, in a few words."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{name}: {one.dtype} {list(one.shape)}, {other.dtype} {list(other.shape)}"
        largest = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
        return f"{name} by up to {largest:.3g}"
    return f"{name}: {str(one)[:60]}, {str(other)[:60]}"


def compare_files(one: Path, other: Path) -> str | None:
    """Compare two files by what they contain; None where they are equal."""
    varying = rb'"written_ns": \d+|"checksum": "\w+"'
    bytes_of_both = [re.sub(varying, b"", path.read_bytes()) for path in (one, other)]
    if bytes_of_both[0] == bytes_of_both[1]:
        return None
    if one.suffix not in READERS:
        return "other bytes"
    try:
        mine, theirs = (READERS[one.suffix](path) for path in (one, other))
    except Exception as error:  # whatever a damaged file does to its reader
        return f"can't be read ({error!r})"
    found = [f"{name} is missing" for name in sorted(mine.keys() - theirs.keys())]
    found += [f"{name} is new" for name in sorted(theirs.keys() - mine.keys())]
    changed = [name for name in mine if name in theirs and not is_same(mine[name], theirs[name])]
    found += [describe(name, mine[name], theirs[name]) for name in changed]
    if not found:
        place = "header" if one.suffix == ".safetensors" else "order or encoding"
        return None if one.suffix in HAVE_TIMES else f"{place} only; the contents are equal"
    rest = f"; and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return f"{len(found)} of {len(mine.keys() | theirs.keys())} items: {'; '.join(found[:MOST_SHOWN])}{rest}"


def compare_folders(one: Path, other: Path) -> Iterator[str]:
    """Give a line for each file that differs, or that only one folder has."""
    mine, theirs = list_files(one), list_files(other)
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in theirs:
            yield f"{name}: only in the first"
        elif name not in mine:
            yield f"{name}: only in the second"
        elif found := compare_files(mine[name], theirs[name]):
            yield f"{name}: {found}"


def compare_revisions(first: str, second: str | None, folder: Path) -> int:
    """Build, run and compare in a folder; the number of differences."""
    (folder / "inputs").mkdir(parents=True)
    build = f"from pathlib import Path; import compare_revisions as c; c.build_inputs(Path({str(folder / 'inputs')!r}))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", build], env=environment, capture_output=True)
    if done.returncode:
        sys.exit(f"error: the inputs can't be built\n{done.stderr.decode()}")
    lines = []
    for name, revision in (("one", first), ("two", second)):
        export_revision(revision, folder / f"code-{name}")
        failures = run_all(folder / f"code-{name}", folder / name)
        lines += [f"{run} with {revision or 'the working tree'}: {failure}" for run, failure in failures.items()]
    lines += compare_folders(folder / "one", folder / "two")
    print(f"{len(list_files(folder / 'one'))} files of {len(RUNS)} runs compared", file=sys.stderr)
    print("\n".join(lines + [f"{len(lines)} differences" if lines else "equal"]))
    return len(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("first", metavar="REVISION", help="the older revision")
    add("second", metavar="REVISION", nargs="?", help="the newer one (default: the working tree)")
    add("--keep", type=Path, metavar="FOLDER", help="leave all files of the runs in this new folder")
    arguments = parser.parse_args(argv)
    for revision in filter(None, (arguments.first, arguments.second)):
        verify = ["git", "-C", ROOT, "rev-parse", "-q", "--verify", f"{revision}^{{commit}}"]
        if subprocess.run(verify, capture_output=True).returncode:
            parser.error(f"REVISION {revision}: git has no such commit")
    if arguments.keep and arguments.keep.exists():
        parser.error(f"--keep {arguments.keep}: it exists; give a new name")
    with contextlib.nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as folder:
        return 1 if compare_revisions(arguments.first, arguments.second, Path(folder).resolve()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
