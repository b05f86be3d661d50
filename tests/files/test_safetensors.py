"""Safetensors read and written tensor by tensor: the library's own functions agree, and memory stays small."""

import json
import pickle

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.commands import python

from dreambooth.files import pickles, safetensors
from dreambooth.files.safetensors import Reader

MIXED = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2.0, 0.25], np.float16),
    "ids": np.array([[1, 2, 3]], np.int64),
    "one": np.array(3, np.float32),
    "mask": np.array([True, False, True]),
    "nothing": np.zeros((0, 4), np.float32),
    "名": np.ones(1, np.float64),
}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]), name


def test_the_library_reads_what_is_written(tmp_path):
    safetensors.write(tmp_path / "a", MIXED, {"format": "pd"})
    assert_equal(load_file(tmp_path / "a"), MIXED)
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == {"format": "pd"}


def test_what_the_library_writes_is_read(tmp_path, monkeypatch):
    save_file(MIXED, tmp_path / "a")
    reader = Reader(tmp_path / "a")
    assert_equal({name: reader[name] for name in reader}, MIXED)
    assert reader.shapes()["matrix"] == [2, 3] and len(reader) == len(MIXED)
    assert "ids" in reader and "other" not in reader
    monkeypatch.setattr(np, "fromfile", lambda *place: pytest.fail("looking for a name reads no numbers"))
    assert "ids" in reader
    with pytest.raises(KeyError):
        reader["other"]


def test_paddles_tensors_are_written_as_they_are(tmp_path):
    mine = {"turned": paddle.to_tensor(MIXED["matrix"]).t(), "ids": paddle.to_tensor(MIXED["ids"])}
    safetensors.write(tmp_path / "a", mine)
    assert_equal(load_file(tmp_path / "a"), {"turned": MIXED["matrix"].T, "ids": MIXED["ids"]})


def test_what_is_pickled_is_what_paddle_loads(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    pickles.write_pickled(tmp_path / "mine", layer.state_dict())
    paddle.save({name: value.numpy() for name, value in layer.state_dict().items()}, str(tmp_path / "theirs"))
    mine, theirs = (paddle.load(str(tmp_path / name), return_numpy=True) for name in ("mine", "theirs"))
    assert_equal(mine, theirs)
    with open(tmp_path / "mine", "rb") as file:
        assert {type(value) for value in pickle.load(file).values()} == {np.ndarray}


@pytest.mark.parametrize("length", [4, 12, -1])
def test_a_file_that_was_cut_short_is_an_error(length, tmp_path):
    save_file(MIXED, tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:length])
    with pytest.raises(ValueError, match="cut short"):
        Reader(tmp_path / "a")


def by_hand(path, header, numbers=b""):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


def test_bfloat16_which_numpy_lacks_is_widened(tmp_path):
    values = np.array([1.5, -0.25, 3e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    by_hand(tmp_path / "a", {"a": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]}}, upper.tobytes())
    read = Reader(tmp_path / "a")["a"]
    assert read.dtype == np.float32 and np.allclose(read[:, 0], values, rtol=1e-2)


@pytest.mark.parametrize(
    "header",
    [
        [1, 2],
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
    ],
)
def test_a_header_that_makes_no_sense_is_an_error(header, tmp_path):
    by_hand(tmp_path / "a", header, b"1234")
    with pytest.raises(ValueError, match="no safetensors file|not known here"):
        Reader(tmp_path / "a")


def test_a_kind_that_is_not_known_is_an_error(tmp_path):
    with pytest.raises(KeyError):
        safetensors.write(tmp_path / "a", {"complex": np.ones(2, np.complex64)})


def test_memory_holds_one_tensor_at_a_time(tmp_path):
    """320 MB of zeros, which cost nothing until they are read, are written; the peak stays far below."""
    done = python("-c", f"""
import resource
import numpy as np
from dreambooth.files import safetensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
safetensors.write({str(tmp_path / "a")!r}, {{str(n): np.broadcast_to(np.float32(1), (4 << 20,)) for n in range(20)}})
reader = safetensors.Reader({str(tmp_path / "a")!r})
assert all(reader[name].sum() == 4 << 20 for name in reader)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
""")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").stat().st_size > 320 << 20
    assert int(done.stdout) < 120 << 10
