"""Every change to a library, a function each."""

import functools
import re
from contextlib import contextmanager


def recompute_without_random_state():
    """Gradient checkpointing saves the state of Paddle's generators for what it computes again. Nothing random is in
    there, since dropout is off, and Paddle 2.6.2 fails at it on the CPU. To be called before PPDiffusers, whose modules
    each keep the function that they find."""
    from paddle.distributed.fleet import utils

    if not isinstance(utils.recompute, functools.partial):
        utils.recompute = functools.partial(utils.recompute, preserve_rng_state=False)


def read_single_numbers():
    """PaddleNLP's reader of safetensors takes the size of a number that is no list, such as the logarithm of CLIP's
    scale, for a fraction, and fails at it."""
    from paddlenlp.utils.safetensors import PySafeSlice, dtype_size

    PySafeSlice.nbytes = property(lambda self: int(self.nelements) * dtype_size[self.info["dtype"]])


UNUSED_WEIGHTS = (
    "pooler.",
    "bert.pooler.",
    "embeddings.position_ids",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


@contextmanager
def read_lean(reader):
    """Within it, PPDiffusers reads safetensors by a reader whose arrays leave memory when they have been used."""
    from ppdiffusers.models import modeling_utils

    whole = modeling_utils.safe_open

    def lean(path, framework):
        try:
            return reader(path)
        except ValueError:  # a kind of numbers that NumPy does not know, or no such file: the library says it better
            return whole(path, framework=framework)

    modeling_utils.safe_open = lean
    try:
        yield
    finally:
        modeling_utils.safe_open = whole


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
