"""The one-file layout of the original Stable Diffusion, as web UIs load it: the names of its weights from diffusers'.

A UNet there counts its blocks through, halves and doubles included; a VAE counts the blocks of its decoder backwards;
and the text encoder of Stable Diffusion 2 is OpenCLIP's, which keeps queries, keys and values in one matrix.
"""

import re

import numpy as np

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."  # of Stable Diffusion 1 and 2
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP_NAMES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def join_weights(unet, vae, text_encoder, layers_per_block, open_clip):
    """One dictionary of all weights from three in diffusers' names and torch's layout."""
    attentive = {name.split(".")[1] for name in unet if re.match(r"up_blocks\.\d+\.attentions", name)}
    weights = {UNET + _unet_name(name, layers_per_block, attentive): value for name, value in unet.items()}
    blocks = 1 + max(int(name.split(".")[2]) for name in vae if name.startswith("decoder.up_blocks."))
    for name, value in vae.items():
        new = _vae_name(name, blocks)
        # an attention's matrices are convolutions of one pixel there
        is_matrix = ".attn_1." in new and value.ndim == 2
        weights[VAE + new] = value[:, :, None, None] if is_matrix else value
    if open_clip:
        return weights | {OPEN_CLIP + name: value for name, value in _to_open_clip(text_encoder).items()}
    return weights | {TEXT + name: value for name, value in text_encoder.items()}


def _unet_name(name, layers, attentive):
    """A UNet's weight: with 2 layers, down_blocks.1.resnets.0.norm1.weight is input_blocks.4.0.in_layers.0.weight."""
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, number, rest = match[1], int(match[2]), match[3]
        return f"middle_block.{2 * number}.{_resnet_name(rest)}" if kind == "resnets" else f"middle_block.1.{rest}"
    side, block, kind, number, rest = re.match(r"(\w+)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name).groups()
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if block in attentive else 1}.{rest}"
    place = f"input_blocks.{first + 1 + int(number)}" if side == "down" else f"output_blocks.{first + int(number)}"
    return f"{place}.0.{_resnet_name(rest)}" if kind == "resnets" else f"{place}.1.{rest}"


def _resnet_name(rest):
    layer, _, kind = rest.rpartition(".")
    return f"{RESNET[layer]}.{kind}"


def _vae_name(name, blocks):
    """A VAE's weight: of 4 blocks, decoder.up_blocks.0.resnets.1.conv1.weight is decoder.up.3.block.1.conv1.weight."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.match(r"(\w+)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        side, kind, number, rest = match.groups()
        if kind == "resnets":
            return f"{side}.mid.block_{int(number) + 1}.{rest}"
        layer, _, kind = rest.rpartition(".")
        return f"{side}.mid.attn_1.{VAE_ATTENTION[layer]}.{kind}"
    if match := re.match(r"(\w+)\.(up|down)_blocks\.(\d+)\.(resnets|upsamplers|downsamplers)\.(\d+)\.(.+)", name):
        coder, side, block, kind, number, rest = match.groups()
        block = blocks - 1 - int(block) if side == "up" else int(block)
        inside = f"block.{number}" if kind == "resnets" else f"{side}sample"
        return f"{coder}.{side}.{block}.{inside}.{rest}"
    return name


def _to_open_clip(text_encoder):
    """A text encoder of Stable Diffusion 2 in OpenCLIP's names."""
    weights = {}
    for name, value in text_encoder.items():
        name = name.removeprefix("text_model.")
        if match := re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            number, layer, kind = match.groups()
            place = f"transformer.resblocks.{number}"
            if layer == "self_attn.q_proj":
                three = [text_encoder[f"text_model.{name.replace('q_proj', f'{one}_proj')}"] for one in "qkv"]
                weights[f"{place}.attn.in_proj_{kind}"] = np.concatenate(three)
            elif layer in OPEN_CLIP_LAYER:
                weights[f"{place}.{OPEN_CLIP_LAYER[layer]}.{kind}"] = value
        elif name in OPEN_CLIP_NAMES:
            weights[OPEN_CLIP_NAMES[name]] = value
    return weights
