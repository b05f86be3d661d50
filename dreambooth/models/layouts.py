"""The layouts that a pipeline's folder comes in, and how the library is brought to read them: that of diffusers, with
torch's weights, and that of Paddle's store from the time when a text encoder's settings had other names.

The library converts weights of torch, but it writes into the folder that it reads, knows one name for each file, and
takes a text encoder whose weights have another prefix for one without weights. So it is given a folder of links, with
the few files that it needs otherwise.
"""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from dreambooth.files import safetensors
from dreambooth.models import registry
from dreambooth.system.errors import BadInput

PADDLE = ("model_state.pdparams", "diffusion_paddle_model.safetensors")
TORCH = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "pytorch_model.bin")
EITHER = "model.safetensors"  # what is in it says its header
SUFFIXES = (".pdparams", ".safetensors", ".bin", ".msgpack", ".h5", ".onnx", ".ckpt", ".pt", ".pth")
PREFIX = "text_model."  # that transformers 5 leaves away
KEPT = []  # folders of links, deleted when the process ends
CONFIG, OLD_CONFIG = "config.json", "model_config.json"
OLD_TEXT_SETTINGS = {
    "max_text_length": "max_position_embeddings",
    "text_embed_dim": "hidden_size",
    "text_heads": "num_attention_heads",
    "text_layers": "num_hidden_layers",
    "text_hidden_act": "hidden_act",
}


def candidates(names):
    """The weight files among some names, the best first, as (name, the name that the library looks for). Those of half
    precision stand in where there are no others, as in fp16 folders."""
    plain = {name: name for name in names}
    half = {name.replace(".fp16.", "."): name for name in names if ".fp16." in name}
    for there in (plain, half):
        yield from ((there[wanted], wanted) for wanted in (*PADDLE, EITHER, *TORCH) if wanted in there)


def weights_of(folder):
    """(path, the name that the library looks for) of a network's weights, or None."""
    names = sorted(path.name for path in folder.iterdir())
    return next(((folder / name, wanted) for name, wanted in candidates(names)), None)


def is_torch(folder):
    """Whether a network's folder holds the weights of torch; None for a folder without weights."""
    found = weights_of(folder)
    if found is None:
        return None
    path, wanted = found
    if wanted == EITHER:
        return (safetensors.header(path).metadata or {}).get("format", "pt") == "pt"
    return wanted in TORCH


def parts(folder):
    return sorted(path for path in Path(folder).iterdir() if path.is_dir())


@contextmanager
def readable(name, flag):
    """(a folder that the library can load, whether it is in torch's format). The folder's weights are gone afterwards;
    its small files stay as long as the process, since a tokenizer is saved by copying them."""
    formats = {part.name: is_torch(part) for part in parts(name)}
    networks = {part: torch for part, torch in formats.items() if torch is not None and part != "safety_checker"}
    from_torch = any(networks.values())
    if from_torch and not all(networks.values()):
        mine, theirs = (next(part for part, torch in networks.items() if torch is wanted) for wanted in (False, True))
        raise BadInput(f"{flag} {name}: {mine}/ is in Paddle's format, and {theirs}/ in torch's; they can't be mixed")
    if not from_torch and not any(old_settings(part) for part in parts(name)):
        yield Path(name), False
        return
    KEPT.append(tempfile.TemporaryDirectory(prefix="dreambooth-"))
    links = Path(KEPT[-1].name)
    lay_out(Path(name).resolve(), links)
    yield links, from_torch
    for file in links.rglob("*"):
        if file.suffix in SUFFIXES:
            file.unlink()


def lay_out(source, links):
    """A folder of links to a folder's files, each under the name that the library looks for."""
    known = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    renamed = {new: old for old, new in registry.FAMILIES[known["_class_name"]].newer_names.items()}
    for path in source.iterdir():
        if not path.is_dir():
            (links / path.name).symlink_to(path)
            continue
        part = links / renamed.get(path.name, path.name)
        part.mkdir()
        chosen, wanted = weights_of(path) or (None, None)
        for file in path.iterdir():
            if file == chosen and part.name == "text_encoder" and lost_its_prefix(file):
                give_prefix(file, part / wanted)
            elif file == chosen:
                (part / wanted).symlink_to(file)
            elif not file.name.endswith(SUFFIXES) and not file.name.endswith(".index.json"):
                (part / file.name).symlink_to(file)
        if "tokenizer" in part.name:
            spell_out(part)
        if settings := old_settings(path):
            (part / CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    index = links / "model_index.json"
    index.unlink()
    index.write_text(json.dumps({renamed.get(part, part): value for part, value in known.items()}), encoding="utf-8")


def old_settings(part):
    """The settings of a CLIP text encoder from Paddle's store in their names of today, or None where they have them."""
    place = part / OLD_CONFIG
    if (part / CONFIG).exists() or not place.is_file():
        return None
    old = json.loads(place.read_text(encoding="utf-8"))
    for inner in old.pop("init_args", []):
        old |= inner if isinstance(inner, dict) else {}
    if "text_layers" not in old:
        return None
    settings = {OLD_TEXT_SETTINGS.get(name, name): value for name, value in old.items()}
    settings.setdefault("hidden_act", "quick_gelu")
    settings["intermediate_size"] = 4 * settings["hidden_size"]
    settings["architectures"] = [settings.pop("init_class", registry.CLIP_TEXT_ENCODER)]
    return {**settings, "bos_token_id": settings["vocab_size"] - 2, "eos_token_id": settings["vocab_size"] - 1}


def lost_its_prefix(file):
    """Whether a CLIP text encoder's weights are named as by transformers since version 5."""
    if file.suffix != ".safetensors":
        return False
    config = json.loads((file.parent / CONFIG).read_text(encoding="utf-8"))
    classes = config.get("architectures", ())
    clip = config.get("model_type") == "clip_text_model" or registry.CLIP_TEXT_ENCODER in classes
    return clip and not any(name.startswith(PREFIX) for name in safetensors.header(file).entries)


def give_prefix(file, to):
    """The same weights under the names that they had before."""
    metadata = {**(safetensors.header(file).metadata or {}), "format": "pt"}
    safetensors.copy_renamed(file, to, lambda name: PREFIX + name, metadata)


def spell_out(tokenizer):
    """Give a tokenizer that consists of one tokenizer.json the vocabulary files that the library reads."""
    whole = tokenizer / "tokenizer.json"
    if not whole.is_file() or any((tokenizer / name).exists() for name in ("vocab.json", "vocab.txt")):
        return
    model = json.loads(whole.read_text(encoding="utf-8"))["model"]
    if model.get("type") == "WordPiece":
        words = sorted(model["vocab"], key=model["vocab"].get)
        (tokenizer / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        return
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def worth_fetching(files):
    """Of a repository's files, those that a pipeline needs: each network's best weights, and all small files."""
    chosen = {"model_index.json"}
    for part in {os.path.dirname(name) for name in files} - {"", "safety_checker"}:
        inside = [os.path.basename(name) for name in files if os.path.dirname(name) == part]
        chosen |= {f"{part}/{name}" for name in inside if not name.endswith(SUFFIXES)}
        chosen |= {f"{part}/{name}" for name, _ in list(candidates(inside))[:1]}
    return sorted(chosen)
