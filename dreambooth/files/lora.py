"""LoRA files of PPDiffusers, of Hugging Face's diffusers and of web UIs, to and from one form.

That form is torch's layout of a layer's two matrices: down [rank, features], up [features, rank]. The second matrix
contains the scale, alpha over rank, since two of the file formats have no place for alpha. DoRA has lengths beside
them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from dreambooth.files import moves, safetensors, weight_files
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from dreambooth.system.types import Array, Arrays

Form: TypeAlias = Literal["paddle", "diffusers", "web_ui"]


class Matrices(NamedTuple):
    """What a LoRA has for one layer."""

    down: Array  # [rank, features], or [rank, features, height, width]
    up: Array  # [features, rank], or [features, rank, 1, 1]; the scale is in it
    lengths: Array | None = None  # [features] of the adapted weights, for DoRA


Layers: TypeAlias = "dict[str, Matrices]"  # by layer

NAMES: dict[Literal["paddle", "diffusers"], str] = {
    "paddle": "paddle_lora_weights.safetensors",
    "diffusers": "pytorch_lora_weights.safetensors",
}
# what other tools write too; the files that hold nothing but weights come first
_ALL_NAMES = (*NAMES.values(), "paddle_lora_weights.pdparams", "pytorch_lora_weights.bin")
_SIDES = {"lora_down": 0, "lora_A": 0, "down": 0, "lora_up": 1, "lora_B": 1, "up": 1}
_KEY = re.compile(rf"(?P<layer>.+?)(\.lora|\.lora_linear_layer)?\.(?P<side>{'|'.join(_SIDES)})\.weight")
_LENGTHS = re.compile(
    r"(?P<layer>.+?)(\.lora|\.lora_linear_layer)?\.(lora_magnitude_vector(\.weight)?|dora_scale|magnitude)"
)
_OF_CLIP = re.compile(r"(?P<block>text_model\.encoder\.layers\.\d+\.)(?P<layer>.+)")
_OLD_KEY = re.compile(r"\.processor\.(to_\w+?)_lora\.")  # of diffusers' first format


def write(
    path: str | Path,
    parts: Mapping[str, Layers],
    form: Form,
    prefixes: Mapping[str, str],
    text_encoders: Collection[str],
) -> None:
    """Write matrices by part and layer in the format of one tool.

    `prefixes` is {part: prefix of web UIs}; `text_encoders` are the parts that are text encoders.
    """
    weights: dict[str, Array] = {}
    for part, layers in parts.items():
        of_part = _with_attention(layers) if form == "web_ui" and part in text_encoders else layers
        for layer, (down, up, lengths) in of_part.items():
            if form == "web_ui":
                name = prefixes[part] + layer.replace(".", "_")
                alpha = np.array(len(down), np.float32)  # the scale is in the matrix
                weights |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
                if lengths is not None:
                    weights[f"{name}.dora_scale"] = lengths.reshape(-1, *[1] * (down.ndim - 1))
            else:
                infix = "lora_linear_layer" if part in text_encoders else "lora"
                for side, matrix in (("down", down), ("up", up)):
                    weights[f"{part}.{layer}.{infix}.{side}.weight"] = (
                        matrix.T if form == "paddle" and matrix.ndim == 2 else matrix
                    )
                if lengths is not None:
                    shape = [-1] if down.ndim == 2 else [1, -1, 1, 1]
                    ending = ".weight" if part in text_encoders else ""  # as peft has it in each of its readers
                    weights[f"{part}.{layer}.lora_magnitude_vector{ending}"] = lengths.reshape(shape)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    safetensors.write(path, weights, {"format": "pd" if form == "paddle" else "pt"})


def _with_attention(layers: Layers) -> Layers:
    """Add attention that changes nothing where some of a text encoder's has no LoRA.

    diffusers 0.42 misreads a web UI's file in which one of these layers is missing.
    """
    found = dict(layers)
    for name, (down, up, _) in layers.items():
        if match := _OF_CLIP.fullmatch(name):
            width = len(up) if match["layer"] in ("mlp.fc2", "self_attn.out_proj") else down.shape[1]
            for each in ("q_proj", "k_proj", "v_proj", "out_proj"):
                nothing = Matrices(np.zeros((len(down), width), np.float32), np.zeros((width, len(down)), np.float32))
                found.setdefault(f"{match['block']}self_attn.{each}", nothing)
    return found


def is_in(folder: Path) -> bool:
    """Check whether a folder holds the file of a LoRA."""
    return any((folder / name).is_file() for name in _ALL_NAMES)


def find_file(path: str | Path, flag: str) -> Path:
    """Return the LoRA file that `path` names, or the one in that folder, whose interrupted move is completed.

    Raises BadInput where there is none, or where it is damaged or holds more than weights; no numbers are read.
    """
    file = Path(path)
    if not file.is_file():
        moves.finish_move(file, flag)
        files = [Path(path) / name for name in _ALL_NAMES if (Path(path) / name).is_file()]
        if not files:
            raise BadInput(f"{flag} {path}: no LoRA, there is no {' or '.join(NAMES.values())}{_hint(Path(path))}")
        file = files[0]
    try:
        weight_files.check(file)
    except (OSError, ValueError) as error:
        raise _unreadable(file, flag, error) from None
    return file


def _hint(folder: Path) -> str:
    """Return what to do with a checkpoint, which the loading of a LoRA does not read."""
    is_checkpoint = (folder / "state.json").is_file()
    return "; this checkpoint can be drawn with as --model_path of infer.py" if is_checkpoint else ""


def _unreadable(path: str | Path, flag: str, error: Exception) -> BadInput:
    return BadInput(f"{flag} {path}: it can't be read ({str(error).removeprefix(f'{path}: ')})")


def read(path: str | Path, flag: str, prefixes: Mapping[str, str]) -> dict[str, Layers]:
    """Read the matrices by part and layer from a file in any of the formats.

    `prefixes` is {beginning of a layer's name in a file: part}; "" stands for names without a beginning. A file for
    web UIs has _ in place of each dot of a layer's name.
    """
    try:
        weights, metadata = weight_files.read(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, flag, error) from None
    try:
        return _parse(weights, metadata, prefixes)
    except ValueError as error:
        raise BadInput(f"{flag} {path}: {error}") from None


def of_checkpoint(weights: Arrays, part: str) -> Layers:
    """Return the matrices that a checkpoint has of a part's LoRA, by layer; the scale is not in them."""
    return _parse(weights, {"format": "np"}, {"": part})[part]


def _parse(weights: Arrays, metadata: Mapping[str, str], prefixes: Mapping[str, str]) -> dict[str, Layers]:
    """Sort a file's tensors by part, layer and side. Raises ValueError if they are no LoRA."""
    matrices, alphas = dict(weights), {}
    for name in weights:
        if name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = matrices.pop(name)
    sides: dict[tuple[str, str], dict[int, Array]] = {}
    lengths: dict[tuple[str, str], Array] = {}
    for name, matrix in matrices.items():
        if matrix.dtype.kind == "f" and not np.isfinite(matrix).all():
            raise ValueError(f"{name} has values that are no numbers")
        if match := _LENGTHS.fullmatch(name):
            axis = 1 if "vector" in name and matrix.ndim > 1 else 0  # of the outputs
            if not matrix.ndim or matrix.shape[axis] != matrix.size:
                raise ValueError(f"{name} has lengths of the inputs, and not of the outputs")
            lengths[_split_part(match["layer"], prefixes)] = matrix.astype(np.float32).flatten()
            continue
        match = _KEY.fullmatch(_OLD_KEY.sub(lambda old: f".{old[1].replace('to_out', 'to_out.0')}.", name))
        if match is None:
            raise ValueError(f"no LoRA of a known format; it holds {name}")
        if matrix.ndim not in (2, 4):
            raise ValueError(f"{name} is neither a matrix nor a convolution")
        part, layer = _split_part(match["layer"], prefixes)
        side = _SIDES[match["side"]]
        matrix = matrix.astype(np.float32)
        if metadata.get("format") in ("pd", "np") and matrix.ndim == 2:  # written by Paddle's libraries
            matrix = matrix.T
        if side == 1:
            matrix = matrix * _scale(alphas.get(match["layer"]), matrix.shape[1], metadata, part, layer)
        sides.setdefault((part, layer), {})[side] = matrix
    parts: dict[str, Layers] = {}
    for (part, layer), pair in sides.items():
        if len(pair) < 2:
            raise ValueError(f"{part}.{layer} has only one of its two matrices")
        if pair[0].shape[0] != pair[1].shape[1] or not pair[0].size:
            raise ValueError(f"the two matrices of {part}.{layer} do not fit each other")
        own = lengths.pop((part, layer), None)
        if own is not None and len(own) != len(pair[1]):
            raise ValueError(f"the lengths of {part}.{layer} do not fit its matrices")
        parts.setdefault(part, {})[layer] = Matrices(pair[0], pair[1], own)
    if lengths:
        raise ValueError("{}.{} has lengths, and no matrices".format(*next(iter(lengths))))
    if not parts:
        raise ValueError("it holds no LoRA")
    return parts


def _scale(alpha: Array | None, rank: int, metadata: Mapping[str, str], part: str, layer: str) -> float:
    """Return the scale of one layer, from its alpha or else from the metadata."""
    if alpha is None:
        return _scale_from_metadata(metadata, part, layer)
    if alpha.size != 1 or not rank or not np.isfinite(alpha).all():
        raise ValueError(f"the alpha or the rank of {part}.{layer} is no number above 0")
    return float(alpha.item()) / rank


def _scale_from_metadata(metadata: Mapping[str, str], part: str, layer: str) -> float:
    """Return the scale of one layer from peft's settings, which newer diffusers write beside the tensors."""

    def setting(settings: Mapping[str, Any], name: str, pattern: str) -> float | None:
        for ending, value in settings.get(f"{part}.{pattern}", {}).items():
            if re.search(rf"(^|\.){ending}$", layer):
                return None if value is None else float(value)
        value = settings.get(f"{part}.{name}")
        return None if value is None else float(value)

    try:
        settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        rank, alpha = setting(settings, "r", "rank_pattern"), setting(settings, "lora_alpha", "alpha_pattern")
        if rank is None or alpha is None:
            return 1.0
        return alpha / (rank**0.5 if settings.get(f"{part}.use_rslora") else rank)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, re.error) as error:
        raise ValueError(f"its lora_adapter_metadata can't be read ({error})") from None


def _split_part(name: str, prefixes: Mapping[str, str]) -> tuple[str, str]:
    """Return (part, layer) of a layer's name in a file; the longest prefix counts."""
    prefix = max((each for each in prefixes if name.startswith(each)), key=len, default=None)
    if prefix is None:
        raise ValueError(f"no LoRA of a known format; it holds {name}")
    return prefixes[prefix], name.removeprefix(prefix)
