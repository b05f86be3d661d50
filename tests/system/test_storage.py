"""The changes to how the libraries read and write weights: each does its work, and the library alone still needs it."""

import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file
from support.commands import ROOT
from support.crafted_pickles import GENUINE, MATRIX, PICTURES, assert_equal, system, torch_file
from support.twins import tiny_vae

from dreambooth.files import weight_files
from dreambooth.system.patches import storage

# one process for all that the libraries do without us; it prints {what: whether it happened}
ALONE = """
import io, json, sys, zlib
from pathlib import Path
import numpy as np
import paddle
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
    folder = tmp_path_factory.mktemp("storage")
    marker = folder / "marker"
    (folder / "model_state.pdparams").write_bytes(system(marker, beside={"w": MATRIX}))
    torch_file(folder / "pytorch_model.bin", system(marker, 2))
    save_file({"scale": np.array(2.5, np.float32)}, folder / "number.safetensors", {"format": "np"})
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """What the libraries do without the changes."""
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


def test_the_libraries_alone_import_all_of_paddlenlp(alone):
    assert alone["PaddleNLP imports all"]


def test_the_libraries_alone_misread_strides_and_single_numbers(alone):
    assert alone["channels_last is permuted"] and alone["a single number fails"]


def test_the_libraries_alone_only_warn_of_missing_weights(alone):
    assert alone["a missing weight is random"]


def test_the_libraries_alone_copy_a_network_to_save_it(alone):
    assert alone["all weights are copied"]


def test_paddle_alone_gives_zeros_for_the_padding_token(alone):
    assert alone["the padding token is zeros"]


def test_missing_weights_are_an_error(tmp_path):
    network = tiny_vae()
    network.save_pretrained(str(tmp_path))
    [path] = tmp_path.glob("*.safetensors")
    whole = load_file(path)
    save_file({name: value for name, value in whole.items() if name != "encoder.conv_in.bias"}, path, {"format": "pd"})
    expected = "the files of its AutoencoderKL lack 1 weights, encoder.conv_in.bias among them"
    with pytest.raises(ValueError, match=expected), storage.all_weights_found():
        type(network).from_pretrained(str(tmp_path))
    save_file(whole, path, {"format": "pd"})
    with storage.all_weights_found():
        type(network).from_pretrained(str(tmp_path))


def test_a_network_is_written_by_the_function_that_is_given(tmp_path):
    network, calls = tiny_vae(), []
    with storage.streamed_writing([network], lambda *each, **options: calls.append((each, options)), "paddle"):
        network.save_pretrained(str(tmp_path / "a"), safe_serialization=True)
    assert (
        calls == [((network, "paddle", str(tmp_path / "a")), {"safe_serialization": True})]
        and not (tmp_path / "a").exists()
    )
    network.save_pretrained(str(tmp_path / "a"))
    assert [*(tmp_path / "a").glob("*.safetensors")]


@pytest.mark.parametrize(("kind", "kept"), [("bert", None), ("xlm-roberta", 0)])
def test_the_padding_token_has_its_own_embedding(kind, kept):
    """The settings of a BERT say so too; a RoBERTa needs the token for its mask."""

    class Encoder(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.embedding = paddle.nn.Embedding(3, 2, padding_idx=0)
            self.config = SimpleNamespace(pad_token_id=0, model_type=kind)

    encoder = Encoder()
    encoder.embedding.weight.set_value(np.ones([3, 2], np.float32))
    storage.keep_padding(encoder)
    assert encoder.embedding(paddle.to_tensor([0])).numpy().all() and encoder.config.pad_token_id is kept


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


def fetched(address, folder, checked):
    """Fetch a file of a hub by the library, with or without the check."""
    import contextlib

    from huggingface_hub import hf_hub_download

    with storage.checked_downloads(str) if checked else contextlib.nullcontext():
        return hf_hub_download("a/b", "unet/a.safetensors", cache_dir=folder, endpoint=address)


@pytest.fixture
def changed_on_the_way(tmp_path):
    """The address of a hub whose file has other bytes than those of its hash."""
    from support import hubs

    (tmp_path / "model/unet").mkdir(parents=True)
    (tmp_path / "model/unet/a.safetensors").write_bytes(b"abc")

    def other(handler, path, body):
        handler.reply(200, b"abd", body, handler.named(tmp_path / "model/unet/a.safetensors"))
        return True

    with hubs.serving(tmp_path) as start:
        yield start(hub=tmp_path / "model", hashes=True, fault=other)[1]["HF_ENDPOINT"]


def test_a_download_with_another_hash_is_refused(changed_on_the_way, tmp_path):
    with pytest.raises(ValueError, match="its hash is not the one that the hub names"):
        fetched(changed_on_the_way, tmp_path / "cache", checked=True)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.read_bytes() == b"abd"]


def test_the_library_alone_takes_it(changed_on_the_way, tmp_path):
    with open(fetched(changed_on_the_way, tmp_path / "cache", checked=False), "rb") as file:
        assert file.read() == b"abd"


def test_the_hashes_that_hubs_name_files_by(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    right = (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",  # SHA-256
        "a9993e364706816aba3e25717850c26c9cd0d89d",  # SHA-1
        "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f",  # of git's blob
    )
    for name in right:
        assert storage._has_hash(path, name) and not storage._has_hash(path, name[1:] + name[0])
    assert storage._has_hash(path, "3-a") and storage._has_hash(path, "x" * 64)


def test_a_file_of_a_hub_that_cannot_resume_is_fetched_anew(tmp_path):
    from support import hubs

    (tmp_path / "model/unet").mkdir(parents=True)
    file = tmp_path / "model/unet/a.safetensors"
    file.write_bytes(bytes(range(250)) * 9)

    def whole(handler, path, body):
        handler.reply(200, file.read_bytes(), body, handler.named(file))
        return True

    with hubs.serving(tmp_path) as start:
        address = start(hub=tmp_path / "model", hashes=True, fault=whole)[1]["HF_ENDPOINT"]
        [blob] = [tmp_path / "cache/models--a--b/blobs" / hashlib.sha256(file.read_bytes()).hexdigest()]
        blob.parent.mkdir(parents=True)
        blob.with_name(f"{blob.name}.incomplete").write_bytes(file.read_bytes()[:700])
        with open(fetched(address, tmp_path / "cache", checked=True), "rb") as found:
            assert found.read() == file.read_bytes()
