"""Every change to a library, a function each."""

from __future__ import annotations

import functools
import io
import pickle
import re
import types
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


def recompute_without_random_state():
    """Gradient checkpointing saves the state of Paddle's generators for what it computes again. Nothing random is in
    there, since dropout is off, and Paddle 2.6.2 fails at it on the CPU. To be called before PPDiffusers, whose modules
    each keep the function that they find."""
    from paddle.distributed.fleet import utils

    if not isinstance(utils.recompute, functools.partial):
        utils.recompute = functools.partial(utils.recompute, preserve_rng_state=False)


@dataclass(frozen=True)
class Readers:
    """The readers of weights that the libraries get in place of their own."""

    safetensors: Callable[..., Any]  # (path, framework=…, device=…), with the methods of safetensors.safe_open
    pickle: Callable[[Any], Any]  # (a path, or an open file) -> the content of a .pdparams, a .bin or a .pt


def read_weights_only(readers: Readers) -> None:
    """Give the libraries readers that can return nothing but weights."""
    # Paddle 2.6.2 and 3.3.1, PPDiffusers 0.29.0, PaddleNLP 2.8.1.
    # Symptom: a .pdparams, .bin or .pt that calls os.system runs it, with torch.load where torch is installed.
    # PPDiffusers ignores strides, so a tensor in channels_last is permuted. PaddleNLP fails at a safetensors file with
    # a single number, such as the logarithm of CLIP's scale. PPDiffusers keeps a safetensors file in memory.
    # Remedy: replace the readers in all modules that have a name for them.
    # Test: tests/system/test_patches.py.
    from paddle.framework import io as paddle_io
    from paddle.framework import io_utils
    from paddlenlp import utils as paddlenlp_utils
    from paddlenlp.transformers import conversion_utils, model_utils
    from paddlenlp.utils import serialization
    from ppdiffusers import utils as ppdiffusers_utils
    from ppdiffusers.models import modeling_utils
    from ppdiffusers.utils import load_utils

    restricted = types.ModuleType("pickle")
    vars(restricted).update(vars(pickle))
    vars(restricted).update(
        load=lambda file, **options: readers.pickle(file),
        loads=lambda data, **options: readers.pickle(io.BytesIO(data)),
        Unpickler=None,
    )
    for module in (paddle_io, io_utils):
        module.pickle = restricted

    def load_torch(path: str, **options: Any) -> Any:
        return dict(readers.safetensors(path)) if str(path).endswith(".safetensors") else readers.pickle(path)

    for module in (load_utils, ppdiffusers_utils):
        module.torch_load = load_torch
    for module in (serialization, paddlenlp_utils, conversion_utils):
        module.load_torch = load_torch
    load_utils.safetensors_load = ppdiffusers_utils.safetensors_load = load_torch
    for module in (modeling_utils, model_utils, load_utils):
        module.safe_open = readers.safetensors


UNUSED_WEIGHTS = (
    "pooler.",
    "bert.pooler.",
    "embeddings.position_ids",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


@contextmanager
def all_weights_found():
    """Fail where the library would only warn that a network keeps random weights, since its files lack them."""
    from paddlenlp.transformers import model_utils as paddlenlp
    from ppdiffusers.models import modeling_utils as ppdiffusers

    said = []

    def listening(warning):
        return lambda message, *more: (said.append(str(message)), warning(message, *more))

    before = [(each.logger, each.logger.warning) for each in (paddlenlp, ppdiffusers)]
    for logger, warning in before:
        logger.warning = listening(warning)
    try:
        yield
    finally:
        for logger, warning in before:
            logger.warning = warning
    for message in said:
        if "newly initialized" not in message:
            continue
        names = [name for name in re.findall(r"'([\w.]+)'", message) if not name.startswith(UNUSED_WEIGHTS)]
        if names or "did not match" in message:
            part = re.search(r"Some weights of (\w+)", message)[1]
            raise ValueError(
                f"the files of its {part} lack {len(names)} weights, {names[0] if names else ''} among them"
            )


def keep_padding(text_encoder):
    """Let the embedding of the padding token count, as it does where these models were trained. Paddle's layer answers
    with zeros for it; without a padding token in its settings, the saved text encoder loads right as well."""
    from paddle import nn

    for layer in text_encoder.sublayers():
        if isinstance(layer, nn.Embedding) and layer._padding_idx is not None:
            layer._padding_idx = text_encoder.config.pad_token_id = None
