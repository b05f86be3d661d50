"""The formats that a pipeline is saved in: Paddle's own two, and that of Hugging Face's diffusers."""

import functools
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dreambooth.files import atomic, safetensors, single_file, weight_files
from dreambooth.models import registry
from dreambooth.system import disk
from dreambooth.system.errors import BadInput

FORMATS = ("pdparams", "safetensors", "diffusers")
# of PPDiffusers' networks alone, with their defaults
OWN_SETTINGS = {"data_format": "NCHW", "down_block_out_channels": None, "up_block_out_channels": None}
CLASSES = {"GPTTokenizer": "GPT2Tokenizer"}
# the networks that are large, and the library's names for their weights
LARGE = ("UNet2DConditionModel", "AutoencoderKL")
WEIGHTS = {
    "pdparams": "model_state.pdparams",
    "safetensors": "diffusion_paddle_model.safetensors",
    "diffusers": "diffusion_pytorch_model.safetensors",
}


def save(pipeline, folder, save_format):
    """Write a pipeline into a folder; a full disk is noticed before anything is written."""
    networks = [part for part in pipeline.components.values() if hasattr(part, "state_dict")]
    disk.require(Path(folder), sum(bytes_of(network.state_dict()) for network in networks))
    with written_lean(pipeline, save_format):
        pipeline.save_pretrained(
            str(folder), safe_serialization=save_format != "pdparams", to_diffusers=save_format == "diffusers"
        )
    if save_format == "diffusers":
        leave_out_own_settings(Path(folder))
        if type(pipeline).__name__ == "UniDiffuserPipeline":
            give_newer_names(Path(folder))
            spell_out_head(Path(folder) / "text_decoder/diffusion_pytorch_model.safetensors")


@contextmanager
def written_lean(pipeline, save_format):
    """Within it, the pipeline's large networks write their weights one by one. The library copies them all first, for
    which the memory of a card's machine is often too small while the optimizer's state is still there."""
    large = [part for part in pipeline.components.values() if type(part).__name__ in LARGE]
    for network in large:
        network.save_pretrained = functools.partial(save_network, network, save_format)
    try:
        yield
    finally:
        for network in large:
            del network.save_pretrained


def save_network(network, save_format, folder, safe_serialization=True, to_diffusers=False):
    """What the library's save_pretrained writes."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    network.save_config(str(folder), to_diffusers=to_diffusers)
    path, weights = Path(folder) / WEIGHTS[save_format], network.state_dict()
    if save_format == "pdparams":
        weight_files.write_pickled(path, weights)
    elif save_format == "safetensors":
        safetensors.write(path, weights, {"format": "pd"})
    else:
        safetensors.write(path, turned(network, weights), {"format": "pt"})


def bytes_of(weights):
    """Return the size of {name: tensor of Paddle or NumPy} in a file."""
    return sum(
        int(np.prod(each.shape)) * (each.element_size() if hasattr(each, "element_size") else each.dtype.itemsize)
        for each in weights.values()
    )


def halve(network):
    """Turn a network's weights into float16, rounded to the nearest: Paddle 2.6.2 alone would cut them off."""
    whole = {name: weight.numpy() for name, weight in network.state_dict().items()}
    network.to(dtype="float16")
    for name, weight in network.state_dict().items():
        if whole[name].dtype == "float32":
            weight.set_value(whole[name].astype("float16"))


def turned(network, weights):
    """The weights with the matrices as torch has them."""
    from paddle import nn

    layers = network.named_sublayers()
    matrices = {f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Linear)}
    return {name: Turned(value) if name in matrices else value for name, value in weights.items()}


class Turned:
    """A matrix that is turned when it is asked for its numbers."""

    def __init__(self, matrix):
        self.matrix, self.dtype, self.shape = matrix, matrix.dtype, matrix.shape[::-1]

    def numpy(self):
        return self.matrix.numpy().T


def leave_out_own_settings(folder):
    """Take the library's own settings out of the networks': diffusers complains of them. They are at their defaults."""
    for path in folder.glob("*/config.json"):
        settings = atomic.read_json(path)
        atomic.write_json(
            path, {name: value for name, value in settings.items() if OWN_SETTINGS.get(name, ...) != value}
        )


def give_newer_names(folder):
    """Call the parts of a UniDiffuser, and their classes, as diffusers calls them today."""
    known = atomic.read_json(folder / "model_index.json")
    for old, new in registry.FAMILIES[known["_class_name"]].newer_names.items():
        (folder / old).rename(folder / new)
        known[new] = known.pop(old)
    for part, value in known.items():
        if isinstance(value, list):
            known[part] = [value[0], CLASSES.get(value[1], value[1])]
    atomic.write_json(folder / "model_index.json", known)
    for path in folder.glob("*tokenizer/tokenizer_config.json"):
        settings = atomic.read_json(path)
        atomic.write_json(
            path, {**settings, "tokenizer_class": CLASSES.get(settings["tokenizer_class"], "CLIPTokenizer")}
        )


def spell_out_head(path):
    """Write the last layer of a UniDiffuser's text decoder, which is its first one's matrix, a second time: diffusers
    looks for both."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(path)
    weights["transformer.lm_head.weight"] = weights["transformer.transformer.wte.weight"].copy()
    save_file(weights, path, metadata={"format": "pt"})


SINGLE_FILE = "single_file"


def write_single_file(pipeline, place):
    """Write the weights of all parts into one file."""
    from safetensors.numpy import save_file

    kind = type(pipeline.text_encoder).__name__
    if kind != "CLIPTextModel" or type(pipeline).__name__ != "StableDiffusionPipeline":
        what = f"a {kind}" if kind != "CLIPTextModel" else f"a {type(pipeline).__name__}"
        raise BadInput(f"--format {SINGLE_FILE}: the layout has no place for {what}; web UIs can't load it")
    parts = {name: in_torch_layout(getattr(pipeline, name)) for name in ("unet", "vae", "text_encoder")}
    weights = single_file.join_weights(
        **parts,
        layers_per_block=pipeline.unet.config.layers_per_block,
        open_clip=pipeline.text_encoder.config.hidden_act == "gelu",  # Stable Diffusion 1 has quick_gelu
    )
    with atomic.whole_file(place, size=bytes_of(weights)) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def in_torch_layout(network):
    """{name: array} of a network's weights, matrices turned as torch has them."""
    from ppdiffusers.models.modeling_pytorch_paddle_utils import convert_paddle_state_dict_to_pytorch

    return convert_paddle_state_dict_to_pytorch(network, {k: v.numpy() for k, v in network.state_dict().items()})
