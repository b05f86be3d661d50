"""The changes to the libraries: each does what it is for, and the library alone still needs it."""

import inspect
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.nn import functional
from ppdiffusers.models.lora import LoRACompatibleConv
from safetensors.numpy import load_file, save_file
from support.commands import ROOT
from support.crafted_pickles import GENUINE, MATRIX, PICTURES, assert_equal, system, torch_file
from support.twins import tiny_vae

from dreambooth.files import weight_files
from dreambooth.system import patches

OUR_FUNCTIONS = functional.linear, functional.conv2d, functional.conv._conv_nd
ALONE_FUNCTIONS = tuple(
    inspect.getclosurevars(each).nonlocals[name]
    for each, name in zip(OUR_FUNCTIONS, ("linear", "convolve", "convolve"))
)


def set_functions(functions):
    functional.linear, functional.conv2d, functional.conv._conv_nd = functions


# one process for all that the libraries do without us; it prints {what: whether it happened}
ALONE = """
import io, json, sys, zlib
from pathlib import Path
import numpy as np
import paddle
from paddle.distributed.fleet import utils
from paddlenlp.transformers.model_utils import safe_open
from paddlenlp.utils.serialization import load_torch
from ppdiffusers.utils.load_utils import smart_load, torch_load

folder, genuine, marker = map(Path, sys.argv[1:])
did = {"PaddleNLP imports all": {"paddlenlp.server.server", "datasets", "sklearn", "pandas"} <= set(sys.modules)}

def runs(what, read):
    try:
        read()
    except Exception:
        pass
    did[what] = marker.exists()
    marker.unlink(missing_ok=True)

runs("paddle.load", lambda: paddle.load(str(folder / "model_state.pdparams")))
memory = io.BytesIO((folder / "model_state.pdparams").read_bytes())
runs("paddle.load from memory", lambda: paddle.load(memory))
runs("PPDiffusers, .pdparams", lambda: smart_load(str(folder / "model_state.pdparams")))
runs("PPDiffusers, .bin", lambda: smart_load(str(folder / "pytorch_model.bin")))
runs("PPDiffusers, torch_load", lambda: torch_load(str(folder / "pytorch_model.bin")))
runs("PaddleNLP, .bin", lambda: load_torch(str(folder / "pytorch_model.bin")))

tensors = torch_load(str(genuine))
did["channels_last is permuted"] = not np.array_equal(
    tensors["channels_last"], np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
)
try:
    with safe_open(str(folder / "number.safetensors"), framework="np") as file:
        file.get_slice("scale")[:]
    did["a single number fails"] = False
except TypeError:
    did["a single number fails"] = True

layer = paddle.nn.Linear(2, 2)
try:
    utils.recompute(layer, paddle.ones([1, 2]), use_reentrant=False).sum().backward()
    did["recompute fails"] = False
except Exception:
    did["recompute fails"] = True
padded = paddle.nn.Embedding(3, 2, padding_idx=0)
padded.weight.set_value(np.ones([3, 2], np.float32))
did["the padding token is zeros"] = not padded(paddle.to_tensor([0])).numpy().any()

sys.path.insert(0, "tests")
from ppdiffusers.models import modeling_utils
from safetensors.numpy import load_file, save_file
from support.twins import tiny_vae

network = tiny_vae()
written = []
save, modeling_utils.np_safe_save_file = modeling_utils.np_safe_save_file, lambda weights, path, metadata: (
    written.append({name: type(value) for name, value in weights.items()}),
    save_file(weights, path, metadata=metadata),
)
network.save_pretrained(str(folder / "vae"))
did["all weights are copied"] = len(written) == 1 and written[0] == dict.fromkeys(network.state_dict(), np.ndarray)
[path] = (folder / "vae").glob("*.safetensors")
weights = load_file(path)
weights.pop("encoder.conv_in.bias")
save_file(weights, path, {"format": "pd"})
type(network).from_pretrained(str(folder / "vae"))
did["a missing weight is random"] = True
print(json.dumps(did))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two attacks, and a safetensors file with a single number."""
    folder = tmp_path_factory.mktemp("patches")
    marker = folder / "marker"
    (folder / "model_state.pdparams").write_bytes(system(marker, beside={"w": MATRIX}))
    torch_file(folder / "pytorch_model.bin", system(marker, 2))
    save_file({"scale": np.array(2.5, np.float32)}, folder / "number.safetensors", {"format": "np"})
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """What the libraries do without the patches."""
    arguments = [folder, GENUINE / "torch-2.13.0.bin", folder / "marker"]
    done = subprocess.run([sys.executable, "-c", ALONE, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "reader",
    [
        "paddle.load",
        "paddle.load from memory",
        "PPDiffusers, .pdparams",
        "PPDiffusers, .bin",
        "PPDiffusers, torch_load",
        "PaddleNLP, .bin",
    ],
)
def test_the_libraries_alone_run_what_they_read(reader, alone):
    assert alone[reader]


def layers_and_inputs():
    """Each layer with a bias, of every kind that networks have, and an input."""
    paddle.seed(0)
    yield "linear", paddle.nn.Linear(6, 5), paddle.randn([2, 3, 6])
    yield "linear, one row", paddle.nn.Linear(6, 5), paddle.randn([6])
    yield "linear without bias", paddle.nn.Linear(6, 5, bias_attr=False), paddle.randn([2, 6])
    yield "convolution", paddle.nn.Conv2D(3, 4, 3, padding=1), paddle.randn([2, 3, 5, 4])
    yield "convolution of PPDiffusers", LoRACompatibleConv(3, 4, 3, padding=1), paddle.randn([2, 3, 5, 4])
    yield "strides", paddle.nn.Conv2D(3, 4, 3, stride=2), paddle.randn([2, 3, 9, 8])
    yield "groups", paddle.nn.Conv2D(4, 4, 3, groups=4), paddle.randn([2, 4, 5, 4])
    yield "channels last", paddle.nn.Conv2D(3, 4, 1, data_format="NHWC"), paddle.randn([2, 5, 4, 3])
    yield "one dimension", paddle.nn.Conv1D(3, 4, 3), paddle.randn([2, 3, 9])
    yield "double precision", paddle.nn.Linear(6, 5).to(dtype="float64"), paddle.randn([2, 6], "float64")


BIASES = [name for name, *_ in layers_and_inputs()]


@pytest.mark.parametrize(
    "frozen",
    [(), ("bias",), ("weight",), ("input",), ("weight", "bias"), ("weight", "input"), ("weight", "bias", "input")],
)
@pytest.mark.parametrize("name", BIASES)
def test_biases_and_gradients_are_those_of_paddle(name, frozen):
    [(layer, x)] = [(layer, x) for kind, layer, x in layers_and_inputs() if kind == name]
    tensors = {"input": x, "weight": layer.weight, **({} if layer.bias is None else {"bias": layer.bias})}
    for part, tensor in tensors.items():
        tensor.stop_gradient = part in frozen
    gradient = None
    found = []
    for functions in (ALONE_FUNCTIONS, OUR_FUNCTIONS):
        set_functions(functions)
        values = layer(x)
        gradient = paddle.randn(values.shape, values.dtype) if gradient is None else gradient
        if not values.stop_gradient:
            values.backward(gradient)
        grads = {part: None if tensor.grad is None else tensor.grad.numpy() for part, tensor in tensors.items()}
        with paddle.no_grad():
            found.append((values.numpy(), layer(x).numpy(), grads))
        for tensor in tensors.values():
            tensor.clear_gradient(set_to_zero=False)
    (values, plain, grads), (our_values, our_plain, our_grads) = found
    np.testing.assert_allclose(our_values, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(our_plain, plain, rtol=1e-5, atol=1e-6)
    assert {part for part, each in grads.items() if each is None} == {
        part for part, each in our_grads.items() if each is None
    }
    for part, each in grads.items():
        if each is not None:
            np.testing.assert_allclose(our_grads[part], each, rtol=1e-4, atol=1e-5)


def test_biases_are_exact_through_gradient_checkpointing():
    from paddle.distributed.fleet.utils import recompute

    layers = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.Flatten(), paddle.nn.Linear(36, 2))
    x = paddle.randn([2, 3, 5, 5])
    x.stop_gradient = False
    gradients = []
    for run in (layers, lambda rows: recompute(layers, rows)):
        run(x).square().sum().backward()
        gradients.append([each.grad.numpy() for each in (x, *layers.parameters())])
        for each in (x, *layers.parameters()):
            each.clear_gradient(set_to_zero=False)
    assert all(np.array_equal(one, other) for one, other in zip(*gradients))


def test_paddle_alone_is_slow_with_biases():
    """A convolution of Stable Diffusion's kind spends as long on its bias as on a third of itself."""
    layer, x = paddle.nn.Conv2D(64, 64, 1), paddle.randn([8, 64, 16, 16])

    def seconds(functions):
        set_functions(functions)
        taken = []
        for _ in range(15):
            start = time.perf_counter()
            layer(x).sum().backward()
            taken.append(time.perf_counter() - start)
        return min(taken)

    assert seconds(OUR_FUNCTIONS) < 0.9 * seconds(ALONE_FUNCTIONS)
    set_functions(OUR_FUNCTIONS)


def test_the_libraries_alone_import_all_of_paddlenlp(alone):
    assert alone["PaddleNLP imports all"]


def small_attention(**changes):
    from ppdiffusers.models.attention_processor import Attention

    paddle.seed(3)
    return Attention(query_dim=12, heads=2, dim_head=6, **changes)


def both_attentions():
    from ppdiffusers.models.attention_processor import AttnProcessor

    return AttnProcessor.__call__, AttnProcessor.__call__.__wrapped__


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("words", [None, 3, 70])
def test_attention_is_that_of_the_library(monkeypatch, split, words):
    """With and without a gradient, of one thing or two, at once or in parts, of which the last is smaller."""
    monkeypatch.setattr(patches, "_MANY_SCORES", 0 if split else 1 << 24)
    monkeypatch.setattr(patches, "_SCORES", 64)
    attention, x = small_attention(cross_attention_dim=12 if words else None), paddle.randn([2, 150, 12])
    context = paddle.randn([2, words, 12]) if words else None
    results = []
    for call in both_attentions():
        with paddle.no_grad():
            drawn = call(None, attention, x, encoder_hidden_states=context).numpy()
        one = x.clone()
        one.stop_gradient = False
        learned = call(None, attention, one, encoder_hidden_states=context)
        (learned * paddle.arange(12, dtype="float32")).sum().backward()
        gradients = [each.grad.numpy() for each in (one, *attention.parameters()) if each.grad is not None]
        attention.clear_gradients()
        results.append([drawn, learned.numpy(), *gradients])
    assert len(results[0]) == len(results[1]) > 6
    for mine, theirs in zip(*results):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "changes, shape",
    [
        (dict(upcast_attention=True), [2, 5, 12]),
        (dict(upcast_softmax=True), [2, 5, 12]),
        (dict(norm_num_groups=3, residual_connection=True, rescale_output_factor=2.0), [2, 12, 2, 3]),
        (dict(norm_num_groups=3), [2, 5, 12]),
        (dict(residual_connection=True), [2, 5, 12]),
        (dict(rescale_output_factor=2.0), [2, 5, 12]),
    ],
)
def test_other_attentions_are_the_librarys(changes, shape):
    attention, x = small_attention(**changes), paddle.randn(shape)
    mine, theirs = (call(None, attention, x).numpy() for call in both_attentions())
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_mask_is_obeyed():
    attention, x = small_attention(), paddle.randn([2, 5, 12])
    mask = paddle.to_tensor([[[0.0, 0.0, 0.0, -1e9, -1e9]]] * 2)
    mine, theirs = (call(None, attention, x, attention_mask=mask).numpy() for call in both_attentions())
    assert np.array_equal(mine, theirs)
    assert not np.allclose(mine, attention(x).numpy(), atol=1e-3)


def test_the_library_alone_scales_the_scores(monkeypatch):
    attention, x = small_attention(), paddle.ones([1, 5, 12])
    largest, multiply = [], paddle.matmul

    def matmul(x, y, **options):
        if options.get("transpose_y"):
            largest.append(float(x.abs().max()))
        return multiply(x, y, **options)

    monkeypatch.setattr(paddle, "matmul", matmul)
    for call in both_attentions():
        call(None, attention, x)
    assert largest[0] == pytest.approx(largest[1] * attention.scale, rel=1e-5)


def test_the_libraries_alone_misread_strides_and_single_numbers(alone):
    assert alone["channels_last is permuted"] and alone["a single number fails"]


def test_recompute_alone_fails_on_paddle_2(alone):
    assert alone["recompute fails"] == paddle.__version__.startswith("2.")


def test_the_libraries_alone_only_warn_of_missing_weights(alone):
    assert alone["a missing weight is random"]


def test_the_libraries_alone_copy_a_network_to_save_it(alone):
    assert alone["all weights are copied"]


def test_paddle_alone_gives_zeros_for_the_padding_token(alone):
    assert alone["the padding token is zeros"]


def test_recompute_works():
    from paddle.distributed.fleet import utils

    layer = paddle.nn.Linear(2, 2)
    utils.recompute(layer, paddle.ones([1, 2]), use_reentrant=False).sum().backward()
    assert layer.weight.grad is not None


def test_missing_weights_are_an_error(tmp_path):
    network = tiny_vae()
    network.save_pretrained(str(tmp_path))
    [path] = tmp_path.glob("*.safetensors")
    whole = load_file(path)
    save_file({name: value for name, value in whole.items() if name != "encoder.conv_in.bias"}, path, {"format": "pd"})
    expected = "the files of its AutoencoderKL lack 1 weights, encoder.conv_in.bias among them"
    with pytest.raises(ValueError, match=expected), patches.all_weights_found():
        type(network).from_pretrained(str(tmp_path))
    save_file(whole, path, {"format": "pd"})
    with patches.all_weights_found():
        type(network).from_pretrained(str(tmp_path))


def test_a_network_is_written_by_the_function_that_is_given(tmp_path):
    network, calls = tiny_vae(), []
    with patches.streamed_writing([network], lambda *each, **options: calls.append((each, options)), "paddle"):
        network.save_pretrained(str(tmp_path / "a"), safe_serialization=True)
    assert (
        calls == [((network, "paddle", str(tmp_path / "a")), {"safe_serialization": True})]
        and not (tmp_path / "a").exists()
    )
    network.save_pretrained(str(tmp_path / "a"))
    assert [*(tmp_path / "a").glob("*.safetensors")]


def test_the_padding_token_has_its_own_embedding():
    class Encoder(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.embedding, self.config = paddle.nn.Embedding(3, 2, padding_idx=0), SimpleNamespace(pad_token_id=0)

    encoder = Encoder()
    encoder.embedding.weight.set_value(np.ones([3, 2], np.float32))
    patches.keep_padding(encoder)
    assert encoder.embedding(paddle.to_tensor([0])).numpy().all() and encoder.config.pad_token_id is None


def readers():
    """Every way to a pickle in the libraries."""
    import io

    import paddlenlp.utils
    import ppdiffusers.utils
    from paddlenlp.transformers import conversion_utils
    from paddlenlp.transformers import model_utils as paddlenlp_models
    from paddlenlp.utils import serialization
    from ppdiffusers.models import modeling_utils as ppdiffusers_models
    from ppdiffusers.utils import load_utils

    return (
        lambda path: paddle.load(str(path)),
        lambda path: paddle.load(str(path), return_numpy=True),
        lambda path: paddle.load(io.BytesIO(path.read_bytes())),
        lambda path: paddle.framework.load(str(path)),
        lambda path: paddle.framework.io_utils._pickle_loads_mac(str(path), path.open("rb")),
        lambda path: load_utils.smart_load(str(path)),
        lambda path: ppdiffusers_models.load_state_dict(str(path), {}),
        lambda path: paddlenlp_models.load_state_dict(str(path)),
        lambda path: paddlenlp_models.paddlenlp_load(str(path)),
        lambda path: load_utils.torch_load(str(path)),
        lambda path: ppdiffusers.utils.torch_load(str(path)),
        lambda path: ppdiffusers.utils.smart_load(str(path)),
        lambda path: serialization.load_torch(str(path)),
        lambda path: paddlenlp.utils.load_torch(str(path)),
        lambda path: conversion_utils.load_torch(str(path)),
    )


@pytest.mark.parametrize("name", ["model_state.pdparams", "pytorch_model.bin"])
def test_no_reader_of_the_libraries_runs_a_file(name, folder):
    for read in readers():
        with pytest.raises(weight_files.RefusedPickle, match=r"refers to posix.system"):
            read(folder / name)
    assert not (folder / "marker").exists()


def as_arrays(value):
    """Tensors as arrays."""
    if isinstance(value, dict):
        return {name: as_arrays(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_arrays(each) for each in value)
    return value.numpy() if isinstance(value, paddle.Tensor) else value


@pytest.mark.parametrize("name", sorted(path.name for path in GENUINE.glob("paddle*")))
def test_paddle_loads_genuine_files_as_before(name, monkeypatch):
    import pickle

    mine = paddle.load(str(GENUINE / name)), paddle.load(str(GENUINE / name), return_numpy=True)
    monkeypatch.setattr("paddle.framework.io.pickle", pickle)
    theirs = paddle.load(str(GENUINE / name)), paddle.load(str(GENUINE / name), return_numpy=True)
    assert_equal(as_arrays(mine), as_arrays(theirs))


def test_torchs_tensors_come_with_their_strides():
    from ppdiffusers.utils import load_utils

    for tensors in (
        load_utils.torch_load(str(GENUINE / "torch-2.13.0.bin")),
        load_utils.smart_load(str(GENUINE / "torch-2.13.0.bin"), return_numpy=True),
    ):
        assert_equal(tensors["channels_last"], PICTURES)
        assert_equal(tensors["transposed"], MATRIX.T)


def test_a_single_number_is_read(folder):
    from paddlenlp.transformers.model_utils import load_state_dict

    assert load_state_dict(str(folder / "number.safetensors"))["scale"].numpy() == 2.5


# a stand-in for torch, whose load would run the file
TORCH = """
import pathlib
from unittest import mock
class Tensor: pass
def load(*arguments, **options): pathlib.Path({marker!r}).touch()
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return mock.MagicMock()
"""
BESIDE = """
import sys
from dreambooth.files import weight_files
from dreambooth.system import libraries
libraries.load(weight_files.READERS)
from ppdiffusers.utils import is_torch_available, load_utils
assert is_torch_available() and load_utils.torch.__file__.startswith({folder!r})
try:
    load_utils.smart_load({file!r})
except weight_files.RefusedPickle as error:
    print(error)
"""


def test_torch_beside_is_not_used(folder, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(TORCH.format(marker=str(folder / "marker")))
    (tmp_path / "torch-2.13.0.dist-info").mkdir()
    (tmp_path / "torch-2.13.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    code = BESIDE.format(folder=str(tmp_path), file=str(folder / "pytorch_model.bin"))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n{code}"],
        capture_output=True,
        text=True,
    )
    assert "refers to posix.system" in done.stdout, done.stderr
    assert not (folder / "marker").exists()
