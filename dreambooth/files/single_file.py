"""The one-file layout of the original Stable Diffusion, which web UIs load, and its weight names in diffusers.

There a UNet numbers all its blocks in one sequence, down- and upsampling included, and a VAE numbers the blocks of its
decoder backwards. The text encoder of Stable Diffusion 2 is OpenCLIP's, with queries, keys and values in one matrix. So
has the transformer of Stable Diffusion 3, where shift and scale of the last norms are the other way round.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from dreambooth.system.types import Array, Arrays

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",  # of XL
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_NAMES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_TRANSFORMER_ENDS = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj.": "x_embedder.proj.",
    "time_text_embed.timestep_embedder.linear_1.": "t_embedder.mlp.0.",
    "time_text_embed.timestep_embedder.linear_2.": "t_embedder.mlp.2.",
    "time_text_embed.text_embedder.linear_1.": "y_embedder.mlp.0.",
    "time_text_embed.text_embedder.linear_2.": "y_embedder.mlp.2.",
    "context_embedder.": "context_embedder.",
    "norm_out.linear.": "final_layer.adaLN_modulation.1.",
    "proj_out.": "final_layer.linear.",
}
_BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_BLOCK_THIRDS = {
    "x_block.attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "context_block.attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
}
_PROJECTION = "text_projection.weight"
_THIRDS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]  # of one matrix


class Section(NamedTuple):
    """Where the weights of a network lie in the file."""

    prefix: str
    kind: Literal["denoiser", "autoencoder", "clip", "open_clip", "transformer", "t5"]
    may_lack: bool = False  # a file may have nothing of it


UNET = Section("model.diffusion_model.", "denoiser")
VAE = Section("first_stage_model.", "autoencoder")
CLIP, OPEN_CLIP = Section("cond_stage_model.transformer.", "clip"), Section("cond_stage_model.model.", "open_clip")
CLIP_OF_XL = Section("conditioner.embedders.0.transformer.", "clip")
OPEN_CLIP_OF_XL = Section("conditioner.embedders.1.model.", "open_clip")
TRANSFORMER = Section("model.diffusion_model.", "transformer")
CLIPS_OF_3 = tuple(
    Section(f"text_encoders.{name}.transformer.", "clip", may_lack=True) for name in ("clip_l", "clip_g")
)
T5_OF_3 = Section("text_encoders.t5xxl.transformer.", "t5", may_lack=True)


class Place(NamedTuple):
    """Where a weight of diffusers lies in the file."""

    name: str  # there
    third: int | None = None  # of the rows, where queries, keys and values are one matrix
    is_transposed: bool = False
    is_kernel: bool = False  # a matrix that is a convolution of one pixel there
    is_swapped: bool = False  # the halves of its rows are the other way round
    is_one: bool = False  # where the file lacks it, it is the identity


def join_weights(parts: Mapping[str, Arrays], sections: Mapping[str, Section], layers_per_block: int) -> Arrays:
    """Join the weights of the networks, in diffusers' names and torch's layout, under the names of one file."""
    weights: dict[str, Array] = {}
    thirds: dict[str, list[tuple[int, Array]]] = {}
    for part, places in _places(parts, sections, layers_per_block).items():
        for own, place in places.items():
            value = parts[part][own]
            value = value.T if place.is_transposed else value
            value = value[:, :, None, None] if place.is_kernel and value.ndim == 2 else value
            value = _swapped(value) if place.is_swapped else value
            if place.third is None:
                weights[place.name] = value
            else:
                thirds.setdefault(place.name, []).append((place.third, value))
    joined = {name: np.concatenate([value for _, value in sorted(each)]) for name, each in thirds.items()}
    return weights | joined


def split_weights(
    weights: Arrays,
    parts: Mapping[str, Mapping[str, Sequence[int]]],
    sections: Mapping[str, Section],
    layers_per_block: int,
) -> dict[str, dict[str, Array]]:
    """Split one file into the weights of networks, which are given as {part: {name: shape}}. The opposite of joining.

    ValueError names the fault where the file is of another model. What else is in the file is left. A network of which
    the file may lack all is not in the result then.
    """
    found: dict[str, dict[str, Array]] = {}
    for part, places in _places(parts, sections, layers_per_block).items():
        if sections[part].may_lack and not any(name.startswith(sections[part].prefix) for name in weights):
            continue
        found[part] = {}
        for own, place in places.items():
            shape = tuple(parts[part][own])
            if place.name in weights:
                value = weights[place.name]
            elif place.is_one:
                value = np.eye(shape[0], shape[1], dtype=np.float32)
            else:
                raise ValueError(f"it has no {place.name}")
            if place.third is not None:
                value = np.split(value, 3)[place.third] if len(value) % 3 == 0 else value
            value = value.T if place.is_transposed else value
            value = _swapped(value) if place.is_swapped else value
            value = value[:, :, 0, 0] if place.is_kernel and value.ndim == 4 and len(shape) == 2 else value
            if value.shape != shape:
                raise ValueError(f"its {place.name} has other sizes: {list(value.shape)}, and not {list(shape)}")
            found[part][own] = value
    return found


def _places(
    parts: Mapping[str, Collection[str]], sections: Mapping[str, Section], layers_per_block: int
) -> dict[str, dict[str, Place]]:
    """Return the place of each weight of each part, by its name."""
    found: dict[str, dict[str, Place]] = {}
    for part, section in sections.items():
        names = parts[part]
        attentive = {name.split(".")[1] for name in names if re.match(r"up_blocks\.\d+\.attentions", name)}
        numbers = [int(name.split(".")[2]) for name in names if name.startswith("decoder.up_blocks.")]
        places: dict[str, Place | None]
        if section.kind == "denoiser":
            places = {name: Place(_unet_name(name, layers_per_block, attentive)) for name in names}
        elif section.kind == "transformer":
            last = max(int(name.split(".")[1]) for name in names if name.startswith("transformer_blocks."))
            places = {name: _transformer_place(name, last) for name in names}
        elif section.kind == "t5":  # whose words are in both its tables
            places = {name: Place(name.replace("encoder.embed_tokens", "shared")) for name in names}
        elif section.kind == "autoencoder":
            places = {name: _vae_place(_vae_name(name, 1 + max(numbers))) for name in names}
        else:
            # the file of Stable Diffusion 3 has no last projection of its first CLIP, which is the identity
            of_clip = {name: Place(name, is_one=section.may_lack and name == _PROJECTION) for name in names}
            places = {name: _open_clip_place(name) for name in names} if section.kind == "open_clip" else dict(of_clip)
        there = {name: place for name, place in places.items() if place is not None}
        found[part] = {name: place._replace(name=section.prefix + place.name) for name, place in there.items()}
    return found


def _swapped(value: Array) -> Array:
    return np.concatenate([*np.split(value, 2)[::-1]])


def _transformer_place(name: str, last: int) -> Place | None:
    """Return the place of a weight of Stable Diffusion 3's transformer; None for norms' biases, which that has not."""
    for ours, theirs in _TRANSFORMER_ENDS.items():
        if name.startswith(ours):
            return Place(theirs + name.removeprefix(ours), is_swapped=ours.startswith("norm_out"))
    if match := re.match(r"transformer_blocks\.(\d+)\.(.+)\.(weight|bias)$", name):
        number, layer, kind = match.groups()
        inside = f"joint_blocks.{number}"
        for joined, thirds in _BLOCK_THIRDS.items():
            if layer in thirds:
                return Place(f"{inside}.{joined}.{kind}", third=thirds.index(layer))
        if layer in _BLOCK:
            is_swapped = layer == "norm1_context.linear" and int(number) == last
            return Place(f"{inside}.{_BLOCK[layer]}.{kind}", is_swapped=is_swapped)
    return None


def _vae_place(name: str) -> Place:
    """Return the place of a VAE's weight; an attention's matrices are convolutions there."""
    return Place(name, is_kernel=".attn_1." in name and name.endswith("weight") and ".norm." not in name)


def _open_clip_place(name: str) -> Place | None:
    """Return the place of a text encoder's weight in OpenCLIP; None for what that has not."""
    if name == _PROJECTION:
        return Place("text_projection", is_transposed=True)
    name = name.removeprefix("text_model.")
    if match := re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, layer, kind = match.groups()
        inside = f"transformer.resblocks.{number}"
        if layer in _THIRDS:
            return Place(f"{inside}.attn.in_proj_{kind}", third=_THIRDS.index(layer))
        return Place(f"{inside}.{_OPEN_CLIP_LAYER[layer]}.{kind}") if layer in _OPEN_CLIP_LAYER else None
    return Place(_OPEN_CLIP_NAMES[name]) if name in _OPEN_CLIP_NAMES else None


def _unet_name(name: str, layers: int, attentive: Collection[str]) -> str:
    """Return the name of a UNet's weight; `attentive` are the up blocks with attention.

    With 2 layers, down_blocks.1.resnets.0.norm1.weight becomes input_blocks.4.0.in_layers.0.weight.
    """
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, number, rest = match.groups()
        return f"middle_block.{2 * int(number)}.{_resnet_name(rest)}" if kind == "resnets" else f"middle_block.1.{rest}"
    match = re.match(r"(\w+)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"{name} is no weight of Stable Diffusion's UNet")
    side, block, kind, number, rest = match.groups()
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if block in attentive else 1}.{rest}"
    prefix = f"input_blocks.{first + 1 + int(number)}" if side == "down" else f"output_blocks.{first + int(number)}"
    return f"{prefix}.0.{_resnet_name(rest)}" if kind == "resnets" else f"{prefix}.1.{rest}"


def _resnet_name(rest: str) -> str:
    layer, _, kind = rest.rpartition(".")
    return f"{_RESNET[layer]}.{kind}"


def _vae_name(name: str, blocks: int) -> str:
    """Return the name of a VAE's weight.

    With 4 blocks, decoder.up_blocks.0.resnets.1.conv1.weight becomes decoder.up.3.block.1.conv1.weight.
    """
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.match(r"(\w+)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        side, kind, number, rest = match.groups()
        if kind == "resnets":
            return f"{side}.mid.block_{int(number) + 1}.{rest}"
        layer, _, kind = rest.rpartition(".")
        return f"{side}.mid.attn_1.{_VAE_ATTENTION[layer]}.{kind}"
    if match := re.match(r"(\w+)\.(up|down)_blocks\.(\d+)\.(resnets|upsamplers|downsamplers)\.(\d+)\.(.+)", name):
        coder, side, block, kind, number, rest = match.groups()
        index = blocks - 1 - int(block) if side == "up" else int(block)
        inside = f"block.{number}" if kind == "resnets" else f"{side}sample"
        return f"{coder}.{side}.{index}.{inside}.{rest}"
    return name
