"""Safetensors read and written tensor by tensor: the library's own functions agree, memory stays small, and a damaged
or crafted file is refused with one line that names it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreambooth.files import safetensors

MIXED = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2.0, 0.25], np.float16),
    "ids": np.array([[1, 2, 3]], np.int64),
    "one": np.array(3, np.float32),
    "mask": np.array([True, False, True]),
    "nothing": np.zeros((0, 4), np.float32),
    "名": np.ones(1, np.float64),
    **{kind: np.arange(3, dtype=kind) for kind in ("int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")},
}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape, name
        assert np.array_equal(one[name], other[name]), name


def test_the_library_reads_what_is_written(tmp_path):
    safetensors.write(tmp_path / "a", MIXED, {"format": "pd"})
    assert_equal(load_file(tmp_path / "a"), MIXED)
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == {"format": "pd"}


def test_what_the_library_writes_is_read(tmp_path, monkeypatch):
    save_file(MIXED, tmp_path / "a")
    reader = safetensors.Reader(tmp_path / "a")
    assert_equal({name: reader[name] for name in reader}, MIXED)
    assert reader.shapes()["matrix"] == [2, 3] and len(reader) == len(MIXED) and reader.metadata() is None
    assert "ids" in reader and "other" not in reader
    monkeypatch.setattr(np, "fromfile", lambda *place: pytest.fail("looking for a name reads no numbers"))
    assert "ids" in reader
    with pytest.raises(KeyError):
        reader["other"]


def test_tensors_are_copied_under_other_names(tmp_path):
    save_file(MIXED, tmp_path / "a", {"format": "pd", "by": "hand"})
    safetensors.copy_renamed(tmp_path / "a", tmp_path / "b", "text_model.{}".format, {"format": "pt"})
    assert_equal(load_file(tmp_path / "b"), {f"text_model.{name}": value for name, value in MIXED.items()})
    assert safetensors.header(tmp_path / "b").metadata == {"format": "pt"}


def by_hand(path, header, numbers=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + numbers)
    return path


def test_bfloat16_which_numpy_lacks_is_widened(tmp_path):
    values = np.array([1.5, -0.25, 3e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    by_hand(tmp_path / "a", {"a": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]}}, upper.tobytes())
    read = safetensors.Reader(tmp_path / "a")["a"]
    assert read.dtype == np.float32 and np.allclose(read[:, 0], values, rtol=1e-2)


def test_a_byte_that_is_no_bool_becomes_one(tmp_path):
    by_hand(tmp_path / "a", {"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, bytes([0, 1, 255]))
    read = safetensors.Reader(tmp_path / "a")["a"]
    assert read.dtype == bool and read.view(np.uint8).tolist() == [0, 1, 1]


def tensor(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def two(first, second):
    return {"a": first, "b": second}


HUGE = 2**62
BAD_HEADERS = {
    "no object": [1, 2],
    "no JSON": b"{'a': 1}",
    "no UTF-8": b'{"\xff": 1}',
    "half a character": b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    "too deep": b'{"a": ' + b"[" * 100_000,
    "a name twice": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}',
    "metadata is a list": {"__metadata__": ["pt"], "a": tensor()},
    "metadata holds a number": {"__metadata__": {"format": 1}, "a": tensor()},
    "no entry": {"a": 4},
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "no kind": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "kind is a number": {"a": tensor(dtype=4)},
    "unknown kind": {"a": tensor(dtype="F8_E4M3", shape=[4])},
    "shape is a number": {"a": {**tensor(), "shape": 1}},
    "a side is true": {"a": tensor(shape=[True])},
    "a side is a fraction": {"a": tensor(shape=[1.0])},
    "a side is negative": {"a": tensor(shape=[-1])},
    "two sides are negative": {"a": tensor(shape=[-1, -1])},
    "a side is text": {"a": tensor(shape=["1"])},
    "the product overflows": {"a": tensor(shape=[2**32, 2**32, 1])},
    "the product overflows to the length": {"a": tensor(shape=[HUGE + 1, 4, 1][:2])},
    "huge sides beside none": two(tensor(shape=[0, HUGE, HUGE], offsets=[0, 0]), tensor()),
    "too many sides": {"a": tensor(shape=[1] * 33)},
    "endless digits": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 100_000 + b'], "data_offsets": [0, 4]}}',
    "one offset": {"a": tensor(offsets=[0])},
    "three offsets": {"a": tensor(offsets=[0, 4, 4])},
    "an offset is true": two(tensor(dtype="U8", offsets=[0, True]), tensor(dtype="U8", shape=[3], offsets=[1, 4])),
    "a negative offset": {"a": tensor(offsets=[-4, 0])},
    "reversed offsets": {"a": tensor(offsets=[4, 0])},
    "offsets past the end": {"a": tensor(offsets=[4, 8])},
    "shape and length differ": {"a": tensor(shape=[3])},
    "overlap": two(tensor(dtype="F16", shape=[2]), tensor(dtype="F16", shape=[2])),
    "overlap of the right sum": two(tensor(dtype="U8", shape=[2], offsets=[0, 2]), tensor(dtype="F16", offsets=[1, 3])),
    "gap": two(tensor(dtype="F16", offsets=[0, 2]), tensor(dtype="U8", offsets=[3, 4])),
    "gap at the start": {"a": tensor(dtype="F16", offsets=[2, 4])},
    "bytes that follow": {"a": tensor(dtype="F16", offsets=[0, 2])},
    "no tensors, but bytes": {},
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_HEADERS)
def test_a_header_that_makes_no_sense_is_one_line_with_the_files_name(fault, tmp_path):
    path = by_hand(tmp_path / "bad.safetensors", BAD_HEADERS[fault], b"1234")
    with pytest.raises(ValueError) as caught:
        safetensors.Reader(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("length", [0, 3, 7, 8, 12, -1, -5])
def test_a_file_that_was_cut_short_is_an_error(length, tmp_path):
    save_file(MIXED, tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:length])
    with pytest.raises(ValueError, match="a: .*cut short"):
        safetensors.Reader(tmp_path / "a")


@pytest.mark.parametrize("length", [100, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_or_than_the_limit_is_not_read(length, tmp_path):
    path = by_hand(tmp_path / "a", {"a": tensor()}, b"1234", length)
    with pytest.raises(ValueError, match="a: .*a header of"):
        safetensors.Reader(path)


def test_the_limit_holds_for_a_file_that_is_that_long(tmp_path):
    path = by_hand(tmp_path / "a", b"{", b"", safetensors.LONGEST_HEADER + 1)
    with open(path, "r+b") as file:
        file.truncate(safetensors.LONGEST_HEADER + 100)  # a hole, which takes no room
    with pytest.raises(ValueError, match="more than 100000000"):
        safetensors.Reader(path)


def test_a_name_of_several_lines_makes_one_line(tmp_path):
    path = by_hand(tmp_path / "a", {"one\nerror: \x1b[2J": tensor(dtype="F8"), "a": 1}, b"1234")
    with pytest.raises(ValueError) as caught:
        safetensors.Reader(path)
    assert r"one\nerror: \x1b[2J" in str(caught.value)


def test_a_file_that_shrinks_after_opening_is_an_error(tmp_path):
    save_file(MIXED, tmp_path / "a")
    reader = safetensors.Reader(tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-4])
    with pytest.raises(ValueError, match="has become shorter"):
        dict(reader)


def test_a_kind_that_is_not_known_is_an_error(tmp_path):
    with pytest.raises(KeyError):
        safetensors.write(tmp_path / "a", {"complex": np.ones(2, np.complex64)})


def test_random_damage_is_refused_or_read_as_the_library_reads_it(tmp_path):
    path, chance = tmp_path / "a", random.Random(0)
    safetensors.write(path, MIXED, {"format": "pt"})
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(end)] = chance.choice([*b'0123456789-,.[]{}":tnFU', chance.randrange(256)])
        path.write_bytes(damaged)
        try:
            names = set(dict(safetensors.Reader(path)))
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
            continue
        with safe_open(path, framework="numpy") as file:
            assert set(file.keys()) == names
    assert 1000 < refused < 2000


def test_memory_stays_at_one_tensor(tmp_path):
    """320 MB of zeros, which cost nothing until they are read, are written; the peak stays far below."""
    done = subprocess.run([sys.executable, "-c", f"""
import resource
import numpy as np
from dreambooth.files import safetensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensors = {{str(n): np.broadcast_to(np.float32(1), (4 << 20,)) for n in range(20)}}
safetensors.write({str(tmp_path / "a")!r}, tensors)
reader = safetensors.Reader({str(tmp_path / "a")!r})
assert all(reader[name].sum() == 4 << 20 for name in reader)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""], capture_output=True, text=True, cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").stat().st_size > 320 << 20
    assert int(done.stdout) < 120 << 10
