"""LoRA's files: those of PPDiffusers, of Hugging Face's diffusers and of web UIs, and how they get into a model.

In between, a layer's two matrices are as torch has them: down [rank, features], up [features, rank]. The scale, alpha
over rank, is part of the second, since two of the formats have no place for alpha: whoever reads them gets it right
without knowing of it.
"""

import json
import re
from pathlib import Path

import numpy as np

from dreambooth.files import atomic, moves, safetensors
from dreambooth.files.safetensors import Reader
from dreambooth.system.errors import BadInput

NAMES = {"paddle": "paddle_lora_weights.safetensors", "diffusers": "pytorch_lora_weights.safetensors"}
# between a layer's name and "down.weight"
INFIX = {"unet": "lora", "text_encoder": "lora_linear_layer"}
WEB_UI = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
SIDES = {"lora_down": 0, "lora_A": 0, "down": 0, "lora_up": 1, "lora_B": 1, "up": 1}
KEY = re.compile(rf"(?P<layer>.+?)(\.lora|\.lora_linear_layer)?\.(?P<side>{'|'.join(SIDES)})\.weight")
OLD_KEY = re.compile(r"\.processor\.(to_\w+?)_lora\.")  # of diffusers' first format


def write(path, parts, form):
    """Write {part: {layer: (down, up)}} as "paddle", "diffusers" or "web_ui"."""
    weights = {}
    for part, layers in parts.items():
        for layer, (down, up) in layers.items():
            if form == "web_ui":
                name = WEB_UI[part] + layer.replace(".", "_")
                alpha = np.array(len(down), np.float32)  # the scale is in the matrix
                weights |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
            else:
                for side, matrix in (("down", down), ("up", up)):
                    weights[f"{part}.{layer}.{INFIX[part]}.{side}.weight"] = (
                        matrix.T if form == "paddle" and matrix.ndim == 2 else matrix
                    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    safetensors.write(path, weights, {"format": "pd" if form == "paddle" else "pt"})


def find_base(name, flag="--model_path"):
    """{"model", "revision", "tokenizer"} of the base of a LoRA that train_dreambooth.py left in this folder; None for
    all else, and where the whole pipeline is there too."""
    folder = Path(name)
    moves.finish_move(folder, flag)
    if (folder / "model_index.json").exists() or not any((folder / file).is_file() for file in NAMES.values()):
        return None
    try:
        record = atomic.read_json(folder / "training_args.json")
        flags = record["flags"]
        return {
            "model": record["base_model"],
            "revision": flags["revision"],
            "tokenizer": flags["tokenizer_name"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{name}: it holds a LoRA, but no training_args.json that tells of what model; give that model, and this"
            " folder as infer.py's --lora"
        ) from None


def find_file(place, flag):
    """The LoRA's file: the one that is named, or the one in a folder."""
    place = Path(place)
    if place.is_file():
        return place
    moves.finish_move(place, flag)
    for name in NAMES.values():
        if (place / name).is_file():
            return place / name
    raise BadInput(f"{flag} {place}: no LoRA, there is no {' or '.join(NAMES.values())}")


def read(path, flag):
    """{part: {layer: (down, up)}} of a file in any of the formats. In one for web UIs the layers' names have _ for
    each dot."""
    try:
        reader = Reader(path)
        weights, metadata = dict(reader), reader.metadata() or {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{flag} {path}: it can't be read ({error})") from None
    paddles = metadata.get("format") in ("pd", "np")
    alphas = {name.removesuffix(".alpha"): weights.pop(name) for name in list(weights) if name.endswith(".alpha")}
    parts = {}
    for name, matrix in weights.items():
        match = KEY.fullmatch(OLD_KEY.sub(lambda old: f".{old[1].replace('to_out', 'to_out.0')}.", name))
        if match is None:
            raise BadInput(f"{flag} {path}: no LoRA that this tool knows; it holds {name}")
        part, layer = _split_part(match["layer"])
        side = SIDES[match["side"]]
        matrix = matrix.astype(np.float32)
        if paddles and matrix.ndim == 2:
            matrix = matrix.T
        if side == 1:
            alpha = alphas.get(match["layer"])
            matrix = matrix * (
                _scale_from_metadata(metadata, part, layer) if alpha is None else float(alpha) / matrix.shape[1]
            )
        parts.setdefault(part, {}).setdefault(layer, [None, None])[side] = matrix
    for part, layers in parts.items():
        for layer, pair in layers.items():
            if any(each is None for each in pair):
                raise BadInput(f"{flag} {path}: {part}.{layer} has only one of its two matrices")
            if pair[0].shape[0] != pair[1].shape[1]:
                raise BadInput(f"{flag} {path}: the two matrices of {part}.{layer} do not fit each other")
    if not parts:
        raise BadInput(f"{flag} {path}: it holds no LoRA")
    return parts


def _scale_from_metadata(metadata, part, layer):
    """The scale that newer diffusers write beside the tensors: peft's settings, whose patterns name single layers."""
    settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))

    def told(name, pattern):
        for ending, value in settings.get(f"{part}.{pattern}", {}).items():
            if re.search(rf"(^|\.){ending}$", layer):
                return value
        return settings.get(f"{part}.{name}")

    rank, alpha = told("r", "rank_pattern"), told("lora_alpha", "alpha_pattern")
    if rank is None or alpha is None:
        return 1.0
    return alpha / (rank**0.5 if settings.get(f"{part}.use_rslora") else rank)


def _split_part(layer):
    """(part, layer) of a layer's name in a file; diffusers' first format knew the UNet alone."""
    for part, prefix in WEB_UI.items():
        if layer.startswith(prefix):
            return part, layer.removeprefix(prefix)
    for part in WEB_UI:
        if layer.startswith(f"{part}."):
            return part, layer.removeprefix(f"{part}.")
    return "unet", layer


def fits_web_ui(parts):
    """Whether a LoRA lies beside a UNet and, perhaps, a CLIP."""
    unet, text = (parts.get(part, {}) for part in WEB_UI)
    blocks = all(re.match(r"(down_blocks|mid_block|up_blocks)[._]", layer) for layer in unet)
    return blocks and all(layer.startswith(("text_model.", "text_model_")) for layer in text)
