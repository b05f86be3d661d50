"""How the libraries read and write weights: every change to that, one function each.

Each names the library and its version, the symptom, the remedy and the test. The tests show that the library alone
still fails, so that a release without the fault shows itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import pickle
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dreambooth.system.types import Network

# weights that a network has and no pipeline here uses; their files may lack them
_UNUSED = re.compile(
    r"(bert\.)?pooler\.|((text|vision)_model\.)?embeddings\.position_ids"
    r"|encoder\.embed_tokens\."  # of T5, whose other name has them
    r"|(norm_out|transformer_blocks\.\d+\.norm1_context)\.norm\.bias"  # of Stable Diffusion 3: zero, in Paddle alone
)


@dataclass(frozen=True)
class Readers:
    """The readers of weights that the libraries get in place of their own."""

    safetensors: Callable[..., Any]  # (path, framework=…, device=…), with the methods of safetensors.safe_open
    pickle: Callable[[Any], Any]  # (a path, or an open file) -> the content of a .pdparams, a .bin or a .pt


def read_weights_only(readers: Readers) -> None:
    """Give the libraries readers that can return nothing but weights."""
    # Library: Paddle 2.6.2 and 3.3.1, PPDiffusers 0.29.0, PaddleNLP 2.8.1.
    # Symptom: a .pdparams, .bin or .pt that calls os.system runs it, where torch is installed by torch.load.
    # PPDiffusers ignores strides, so a tensor in channels_last is permuted; and it keeps all of a safetensors file in
    # memory. PaddleNLP fails at a single number in one, such as the logarithm of CLIP's scale.
    # Remedy: other readers, under each of the names that the libraries' modules have for them.
    # Test: those of pickles, strides and single numbers in tests/system/test_storage.py.
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

    def load_torch(path: str, **options: object) -> object:
        return dict(readers.safetensors(path)) if str(path).endswith(".safetensors") else readers.pickle(path)

    for module in (load_utils, ppdiffusers_utils):
        module.torch_load = load_torch
    for module in (serialization, paddlenlp_utils, conversion_utils):
        module.load_torch = load_torch
    load_utils.safetensors_load = ppdiffusers_utils.safetensors_load = load_torch
    for module in (modeling_utils, model_utils, load_utils):
        module.safe_open = readers.safetensors


@contextlib.contextmanager
def streamed_writing(networks: Iterable[Network], write: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Within it, write(network, *arguments, …) is the save_pretrained of networks."""
    # Library: PPDiffusers 0.29.0, PaddleNLP 2.8.1.
    # Symptom: save_pretrained copies all weights of a network before it writes the first of them. At the end of a run,
    # the optimizer's state is still in memory beside them.
    # Remedy: a function that writes one tensor after the other.
    # Test: test_a_network_is_written_by_the_function_that_is_given, test_the_libraries_alone_copy_a_network_to_save_it.
    changed = list(networks)
    for network in changed:
        network.save_pretrained = functools.partial(write, network, *arguments)
    try:
        yield
    finally:
        for network in changed:
            del network.save_pretrained


@contextlib.contextmanager
def all_weights_found() -> Iterator[None]:
    """Raise ValueError where a network that is loaded within it keeps random weights, since its files lack them."""
    # Library: PPDiffusers 0.29.0, PaddleNLP 2.8.1.
    # Symptom: a network whose files lack weights, or name them otherwise, loads with a warning and draws noise.
    # Remedy: listen to the warnings.
    # Test: test_missing_weights_are_an_error, test_the_libraries_alone_only_warn_of_missing_weights.
    from paddlenlp.transformers import model_utils as paddlenlp
    from ppdiffusers.models import modeling_utils as ppdiffusers

    warnings: list[str] = []

    def listening(warning: Callable[..., None]) -> Callable[..., None]:
        def warn(message: object, *more: object) -> None:
            warnings.append(str(message))
            warning(message, *more)

        return warn

    before = [(module.logger, module.logger.warning) for module in (paddlenlp, ppdiffusers)]
    for logger, warning in before:
        logger.warning = listening(warning)
    try:
        yield
    finally:
        for logger, warning in before:
            logger.warning = warning
    for message in warnings:
        if "newly initialized" not in message:
            continue
        names = [name for name in re.findall(r"'([\w.]+)'", message) if not _UNUSED.match(name)]
        if names or "did not match" in message:
            part = re.search(r"Some weights of (\w+)", message)
            raise ValueError(
                f"the files of its {part[1] if part else 'networks'} lack {len(names)} weights,"
                f" {names[0] if names else ''} among them"
            )


def keep_padding(text_encoder: Network) -> None:
    """Let the padding token have its learned embedding, as in torch."""
    # Library: Paddle 2.6.2 and 3.3.1.
    # Symptom: Embedding(padding_idx=0) gives zeros for that token, where torch gives the stored row. With the [PAD] of
    # a Chinese text encoder, the prompt's encoding is off by 2.6.
    # Remedy: no padding token in the layer, nor in the settings of a BERT that are saved; a RoBERTa masks by its.
    # Test: test_the_padding_token_has_its_own_embedding, test_paddle_alone_gives_zeros_for_it.
    from paddle import nn

    for layer in text_encoder.sublayers():
        if isinstance(layer, nn.Embedding) and layer._padding_idx is not None:  # noqa: SLF001
            layer._padding_idx = None  # noqa: SLF001
            if text_encoder.config.model_type == "bert":  # others compute their mask by it
                text_encoder.config.pad_token_id = None


def transpose_last_layer(classes: Iterable[object]) -> None:
    """Let the library know which layers of AltDiffusion's text encoder torch stores transposed, if it is there."""
    # Library: PPDiffusers 0.29.0.
    # Symptom: in its list of matrices to transpose the last layer is missing. Where it is square, the prompt's encoding
    # is silently another one; else the model does not load.
    # Remedy: add the layer, and that of its newer kind.
    # Test: test_altdiffusion_in_torchs_format, test_the_library_alone_does_not_transpose_the_last_layer.
    if "RobertaSeriesModelWithTransformation" not in classes:
        return
    from paddlenlp.transformers.conversion_utils import StateDictNameMapping
    from ppdiffusers.pipelines.alt_diffusion import modeling_roberta_series

    network = modeling_roberta_series.RobertaSeriesModelWithTransformation
    inherited = network.__mro__[1]._get_name_mappings  # noqa: SLF001

    def with_last_layer(_: type, settings: Any) -> list[Any]:  # noqa: ANN401  the library's
        found = inherited.__func__(network, settings)
        names = ["transformation.weight"]
        if getattr(settings, "has_pre_transformation", False):
            names.append("transformation_pre.weight")
        return [*found, *(StateDictNameMapping(name, name, "transpose") for name in names)]

    network._get_name_mappings = classmethod(with_last_layer)  # noqa: SLF001


@contextlib.contextmanager
def checked_downloads(cleaned: Callable[[str], str]) -> Iterator[None]:
    """Within it, a file from Hugging Face gets its place in the cache only with the hash by which the hub names it.

    `cleaned` takes passwords and tokens out of the lines that the library logs.
    """
    # Library: huggingface_hub 0.25.2.
    # Symptom: a download whose bytes are others than the hub's is taken, and stays; only its length is compared. A
    # warning of an interrupted one shows its whole address, with the signature by which anybody may fetch it.
    # And where a server sends all of a file that was to be resumed, its bytes are added to the first ones, and every
    # later attempt fails too.
    # Remedy: compare the hash before the file is moved; pass the lines of the log through a function; begin anew.
    # Test: test_a_download_with_another_hash_is_refused, test_the_library_alone_takes_it.
    from huggingface_hub import file_download

    get, move = file_download.http_get, file_download._chmod_and_move  # noqa: SLF001
    handlers = logging.getLogger("huggingface_hub").handlers

    def get_anew(url: str, file: IO[bytes], **options: Any) -> None:
        try:
            get(url, file, **options)
        except OSError:
            size = options.get("expected_size")
            if not options.get("resume_size") or size is None or file.tell() <= size:
                raise
            file.seek(0)
            file.truncate()
            get(url, file, **{**options, "resume_size": 0})

    def move_checked(source: Path, target: Path) -> None:
        if not _has_hash(source, target.name):
            source.unlink()
            raise ValueError("a file that is damaged: its hash is not the one that the hub names; try again")
        move(source, target)

    def clean(record: logging.LogRecord) -> bool:
        record.msg, record.args = " ".join(cleaned(record.getMessage()).split()), None
        return True

    file_download.http_get, file_download._chmod_and_move = get_anew, move_checked  # noqa: SLF001
    for handler in handlers:
        handler.addFilter(clean)
    try:
        yield
    finally:
        file_download.http_get, file_download._chmod_and_move = get, move  # noqa: SLF001
        for handler in handlers:
            handler.removeFilter(clean)


def _has_hash(path: Path, name: str) -> bool:
    """Check a file against the name that a hub gives it: a SHA-256, or a SHA-1 of it or of git's blob with it.

    Other names are no hashes.
    """
    if re.fullmatch("[0-9a-f]{64}", name):
        digests = [hashlib.sha256()]
    elif re.fullmatch("[0-9a-f]{40}", name):
        digests = [hashlib.sha1(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode())]
    else:
        return True
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            for digest in digests:
                digest.update(chunk)
    return name in [digest.hexdigest() for digest in digests]
