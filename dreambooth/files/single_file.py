"""The one-file layout of the original Stable Diffusion, which web UIs load: its weight names from diffusers'.

There a UNet numbers all its blocks in one sequence, down- and upsampling included, and a VAE numbers the blocks of its
decoder backwards. The text encoder of Stable Diffusion 2 is OpenCLIP's, with queries, keys and values in one matrix.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from dreambooth.system.types import Array, Arrays

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_TEXT, _OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."  # of Stable Diffusion 1 and 2
_TEXTS_OF_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
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


def join_weights(unet: Arrays, vae: Arrays, text_encoder: Arrays, layers_per_block: int, open_clip: bool) -> Arrays:
    """Join the weights of three networks, in diffusers' names and torch's layout, under the names of one file."""
    weights = _join_pictures(unet, vae, layers_per_block)
    if open_clip:
        return weights | {_OPEN_CLIP + name: value for name, value in _to_open_clip(text_encoder).items()}
    return weights | {_TEXT + name: value for name, value in text_encoder.items()}


def join_weights_of_xl(
    unet: Arrays, vae: Arrays, text_encoder: Arrays, text_encoder_2: Arrays, layers_per_block: int
) -> Arrays:
    """Join the weights of the four networks of Stable Diffusion XL; its second text encoder is OpenCLIP's."""
    first, second = _TEXTS_OF_XL
    weights = _join_pictures(unet, vae, layers_per_block)
    weights |= {first + name: value for name, value in text_encoder.items()}
    weights |= {second + name: value for name, value in _to_open_clip(text_encoder_2).items()}
    return {**weights, f"{second}text_projection": text_encoder_2["text_projection.weight"].T}


def _join_pictures(unet: Arrays, vae: Arrays, layers_per_block: int) -> dict[str, Array]:
    """Join the weights of the networks that have to do with pictures."""
    attentive = {name.split(".")[1] for name in unet if re.match(r"up_blocks\.\d+\.attentions", name)}
    weights = {_UNET + _unet_name(name, layers_per_block, attentive): value for name, value in unet.items()}
    blocks = 1 + max(int(name.split(".")[2]) for name in vae if name.startswith("decoder.up_blocks."))
    for name, value in vae.items():
        new = _vae_name(name, blocks)
        # an attention's matrices are convolutions of one pixel there
        is_matrix = ".attn_1." in new and value.ndim == 2
        weights[_VAE + new] = value[:, :, None, None] if is_matrix else value
    return weights


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


def _to_open_clip(text_encoder: Arrays) -> Arrays:
    """Rename the weights of a text encoder of Stable Diffusion 2 or XL to OpenCLIP's names, with joined matrices."""
    weights: dict[str, Array] = {}
    for name, value in text_encoder.items():
        name = name.removeprefix("text_model.")
        if match := re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            number, layer, kind = match.groups()
            prefix = f"transformer.resblocks.{number}"
            if layer == "self_attn.q_proj":
                three = [text_encoder[f"text_model.{name.replace('q_proj', f'{one}_proj')}"] for one in "qkv"]
                weights[f"{prefix}.attn.in_proj_{kind}"] = np.concatenate(three)
            elif layer in _OPEN_CLIP_LAYER:
                weights[f"{prefix}.{_OPEN_CLIP_LAYER[layer]}.{kind}"] = value
        elif name in _OPEN_CLIP_NAMES:
            weights[_OPEN_CLIP_NAMES[name]] = value
    return weights
