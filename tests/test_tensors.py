"""Safetensors read and written tensor by tensor: the library's own functions agree, and memory stays small."""

import numpy as np
import paddle
import pytest
from conftest import python
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreambooth import tensors

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
    tensors.write(tmp_path / "a", MIXED, {"format": "pd"})
    assert_equal(load_file(tmp_path / "a"), MIXED)
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == {"format": "pd"}


def test_what_the_library_writes_is_read(tmp_path):
    save_file(MIXED, tmp_path / "a")
    reader = tensors.Reader(tmp_path / "a")
    assert_equal({name: reader[name] for name in reader}, MIXED)
    assert reader.shapes()["matrix"] == [2, 3] and len(reader) == len(MIXED)
    assert "ids" in reader and "other" not in reader
    with pytest.raises(KeyError):
        reader["other"]


def test_paddles_tensors_are_written_as_they_are(tmp_path):
    mine = {"turned": paddle.to_tensor(MIXED["matrix"]).t(), "ids": paddle.to_tensor(MIXED["ids"])}
    tensors.write(tmp_path / "a", mine)
    assert_equal(load_file(tmp_path / "a"), {"turned": MIXED["matrix"].T, "ids": MIXED["ids"]})


def test_a_kind_that_is_not_known_is_an_error(tmp_path):
    with pytest.raises(KeyError):
        tensors.write(tmp_path / "a", {"complex": np.ones(2, np.complex64)})


def test_memory_holds_one_tensor_at_a_time(tmp_path):
    """320 MB of zeros, which cost nothing until they are read, are written; the peak stays far below."""
    done = python("-c", f"""
import resource
import numpy as np
from dreambooth import tensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensors.write({str(tmp_path / "a")!r}, {{str(n): np.broadcast_to(np.float32(1), (4 << 20,)) for n in range(20)}})
reader = tensors.Reader({str(tmp_path / "a")!r})
assert all(reader[name].sum() == 4 << 20 for name in reader)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
""")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").stat().st_size > 320 << 20
    # the pages of the file that is read count too
    assert int(done.stdout) < 450 << 10
