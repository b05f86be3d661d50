"""The formats that a pipeline is saved in: Paddle's own two, that of Hugging Face diffusers, and one file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.files import atomic, safetensors, single_file, weight_files
from dreambooth.system import disk
from dreambooth.system.errors import BadInput
from dreambooth.system.patches import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor

    from dreambooth.config.run_sections import SaveFormat
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array, Arrays, Network, Pipeline, Tensors, Tokenizer

SINGLE_FILE = "single_file"
_TABLE = "text_model.embeddings.token_embedding.weight"  # of the vectors of CLIP's tokens
TORCH_WEIGHTS = "diffusion_pytorch_model.safetensors"  # of a network, in a folder for diffusers
# of PPDiffusers' networks alone, with their defaults
_OWN_SETTINGS = {"data_format": "NCHW", "down_block_out_channels": None, "up_block_out_channels": None}
# the names of the weights, of PPDiffusers' networks and of PaddleNLP's
_WEIGHTS = {
    "pdparams": ("model_state.pdparams", "model_state.pdparams"),
    "safetensors": ("diffusion_paddle_model.safetensors", "model.safetensors"),
    "diffusers": (TORCH_WEIGHTS, "model.safetensors"),
}


def save(pipeline: Pipeline, folder: Path, save_format: SaveFormat) -> None:
    """Write a pipeline into a folder; a full disk is noticed before anything is written."""
    networks = [part for part in pipeline.components.values() if hasattr(part, "state_dict")]
    disk.require(folder, sum(bytes_of(network.state_dict()) for network in networks))
    with storage.streamed_writing(networks, save_network, save_format):
        pipeline.save_pretrained(
            str(folder), safe_serialization=save_format != "pdparams", to_diffusers=save_format == "diffusers"
        )
    if save_format == "diffusers":
        _remove_own_settings(folder)


def save_network(
    network: Network,
    save_format: SaveFormat,
    folder: str | Path,
    safe_serialization: bool = True,
    to_diffusers: bool = False,
) -> None:
    """Write the files of a network's save_pretrained, in its place; one file has all weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(network, "save_config"):
        network.save_config(str(folder), to_diffusers=to_diffusers)
        _write_weights(network, network.state_dict(), folder / _WEIGHTS[save_format][0], save_format, "pd")
    else:  # a network of PaddleNLP, whose function writes the settings, and calls ours with the weights
        path = folder / _WEIGHTS[save_format][1]
        type(network).save_pretrained(
            network,
            str(folder),
            save_function=lambda weights, _: _write_weights(network, weights, path, save_format, "np"),
            max_shard_size=bytes_of(network.state_dict()),
        )


def _write_weights(network: Network, weights: Tensors, path: Path, save_format: SaveFormat, of_paddle: str) -> None:
    if save_format == "pdparams":
        weight_files.write_pickled(path, weights)
    elif save_format == "safetensors":
        safetensors.write(path, weights, {"format": of_paddle})
    else:
        of_torch = {name: value for name, value in torch_layout(network).items() if name in weights}
        safetensors.write(path, of_torch, {"format": "pt"})


def bytes_of(weights: Tensors | Arrays) -> int:
    """Return the size of weights in a file."""
    return sum(
        int(np.prod(each.shape)) * (each.element_size() if hasattr(each, "element_size") else each.dtype.itemsize)
        for each in weights.values()
    )


def to_float16(network: Network) -> None:
    """Turn a network's weights into float16, rounded to the nearest: Paddle 2.6.2 alone would cut them off."""
    whole = {name: weight.numpy() for name, weight in network.state_dict().items()}
    network.to(dtype="float16")
    for name, weight in network.state_dict().items():
        if whole[name].dtype == "float32":
            weight.set_value(whole[name].astype("float16"))


def torch_layout(network: Network) -> dict[str, Any]:
    """Map the names of a network's weights to the weights, with the matrices as torch has them."""
    from paddle import nn

    matrices = {f"{name}.weight" for name, layer in network.named_sublayers() if isinstance(layer, nn.Linear)}
    return {
        name: Transposed(value) if name in matrices else value
        for name, value in network.state_dict().items()
        if "position_ids" not in name  # a constant, which torch's networks have no more
    }


def torch_arrays(network: Network) -> dict[str, Array]:
    """Read a network's weights with the matrices as torch has them."""
    return {name: weight.numpy() for name, weight in torch_layout(network).items()}


def without_new_words(text_encoder: Arrays, tokenizer: Tokenizer) -> dict[str, Array]:
    """Leave the rows of added words out of a CLIP's weights: web UIs load them from files beside the model."""
    if not tokenizer.added_tokens_encoder:
        return dict(text_encoder)
    return {**text_encoder, _TABLE: text_encoder[_TABLE][: tokenizer.vocab_size]}


class Transposed:
    """A matrix that is transposed when its numbers are read."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.dtype, self.shape = matrix, matrix.dtype, matrix.shape[::-1]

    def numpy(self) -> Array:
        """Read the numbers."""
        return self.matrix.numpy().T


def _remove_own_settings(folder: Path) -> None:
    """Remove the library's own settings from those of the networks, since diffusers warns of them.

    They are at their defaults.
    """
    for path in folder.glob("*/config.json"):
        settings = atomic.read_json(path)
        atomic.write_json(
            path, {name: value for name, value in settings.items() if _OWN_SETTINGS.get(name, ...) != value}
        )


def no_single_file(what: str) -> BadInput:
    """Make the error for weights that have no place in the one-file layout."""
    return BadInput(f"--format {SINGLE_FILE}: the layout has no place for {what}; web UIs can't load it")


def single_file_weights(family: Family) -> Arrays:
    """Collect the weights of a model under the names of the one-file layout."""
    layout = family.single_file_layout()
    arrays: dict[str, Arrays] = {part: torch_arrays(network) for part, network in family.networks().items()}
    for tokenizer, part in zip(family.facts.tokenizers, family.facts.text_encoders):
        arrays[part] = without_new_words(arrays[part], getattr(family.pipeline, tokenizer))
    return single_file.join_weights(arrays, **layout)


def settle(network: Network, paths: Sequence[Path]) -> None:
    """Give a network the weights of several files of torch, where the library did not.

    PaddleNLP 2.8.1 takes none of half precision, keeps its random ones, and says nothing. One matrix of a file tells.
    """
    laid_out, own = torch_layout(network), network.state_dict()
    for path in paths:
        reader = safetensors.Reader(path)
        shapes = {name: shape for name, shape in reader.shapes().items() if len(shape) > 1}
        probe = min(shapes, key=lambda name: math.prod(shapes[name]), default=None)
        if probe is None or np.array_equal(laid_out[probe].numpy(), reader[probe].astype(np.float32)):
            continue
        for name in reader:
            is_matrix = isinstance(laid_out[name], Transposed)
            own[name].set_value((reader[name].T if is_matrix else reader[name]).astype(np.float32))


def set_single_file_weights(family: Family, weights: Arrays, what: str) -> None:
    """Give a model the weights of one file, which is of the same architecture."""
    layout, networks = family.single_file_layout(), family.networks()
    laid_out = {part: torch_layout(network) for part, network in networks.items()}
    shapes = {part: {name: each.shape for name, each in own.items()} for part, own in laid_out.items()}
    try:
        found = single_file.split_weights(weights, shapes, **layout)
    except ValueError as error:
        raise BadInput(f"{what}: it is of another model; {error}") from None
    for part, arrays in found.items():
        own = networks[part].state_dict()
        for name, array in arrays.items():
            is_matrix = isinstance(laid_out[part][name], Transposed)
            own[name].set_value((array.T if is_matrix else array).astype(np.float32))


def write_single_file(weights: Arrays, path: Path) -> None:
    """Write the weights of all parts into one file."""
    with atomic.whole_file(path, size=bytes_of(weights)) as temporary:
        safetensors.write(temporary, weights, {"format": "pt"})
