"""Arrays and tensors as a pickle describes them: what NumPy or torch would not have written is refused."""

import zipfile

import numpy as np
import pytest
from support.crafted_pickles import (
    MATRIX,
    array,
    assert_equal,
    number,
    numbers,
    plain,
    refused,
    text,
    torch_file,
    torch_tensor,
)

from dreambooth.files import weight_files

# NumPy's arrays


def test_an_array_by_hand_is_read(tmp_path):
    (tmp_path / "a.pdparams").write_bytes(array())
    assert_equal(weight_files.read(tmp_path / "a.pdparams")[0], plain(tmp_path / "a.pdparams"))


@pytest.mark.parametrize(
    "crafted",
    [
        dict(kind=b"O8"),
        dict(kind=b"O"),
        dict(kind=b"V8"),
        dict(kind=b"S8"),
        dict(kind=b"U2"),
        dict(kind=b"M8"),
        dict(kind=b"f4,O8"),
        dict(kind=b"(1000000000,)f4"),
        dict(kind=b"f999999999999"),
        dict(kind=b"object"),
        dict(order=b"?"),
        dict(order=b"<<"),
        dict(rest=b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3f"),
        dict(rest=b"NNNK\x08K\x08K\x00"),
        dict(rest=b"(cnumpy\ndtype\n(" + text(b"f4") + b"\x89\x88tR(K\x02ttNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"),
        dict(rest=b"N(" + text(b"a") + b"t}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"),
        dict(rest=b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00}"),
        dict(shape=b"(K\x03t"),
        dict(shape=b"(J\xfe\xff\xff\xffJ\xff\xff\xff\xfft"),
        dict(shape=b"(K\x02\x88t"),
        dict(shape=b"(G@\x00\x00\x00\x00\x00\x00\x00t"),
        dict(shape=b"](K\x02e"),
        dict(shape=numbers([2**62, 4]), data=b"C\x00"),
        dict(shape=numbers([0, 2**62, 2**62]), data=b"C\x00"),
        dict(shape=numbers([1] * 33 + [2])),
        dict(data=b"K\x01"),
        dict(data=b"](K\x01K\x02e"),
        dict(data=b"C\x0412345678"),
        dict(data=b"B\xff\xff\xff\xff12345678"),
        dict(data=b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f12345678"),
        dict(data=b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff12345678"),
        dict(data=text("文字文字文字文字".encode())),
    ],
)  # fmt: skip
def test_an_array_that_is_no_numbers_is_refused(crafted, tmp_path):
    (tmp_path / "a.pdparams").write_bytes(array(**crafted))
    refused(tmp_path / "a.pdparams")


def test_a_byte_that_is_no_bool_becomes_one(tmp_path):
    (tmp_path / "a.pdparams").write_bytes(array(kind=b"b1", order=b"|", data=b"C\x02\x00\xff"))
    read = weight_files.read(tmp_path / "a.pdparams")[0]["w"]
    assert read.dtype == bool and read.view(np.uint8).tolist() == [0, 1]


# torch's tensors


def test_a_tensor_by_hand_is_read(tmp_path):
    path = torch_file(tmp_path / "a.pdparams", torch_tensor(), [MATRIX.tobytes()], byteorder="little")
    assert_equal(weight_files.read(path)[0], {"w": MATRIX})


@pytest.mark.parametrize(
    "crafted",
    [
        dict(count=13),
        dict(count=-1),
        dict(count=2**62),
        dict(kind=b"DoubleStorage"),
        dict(key=b"1"),
        dict(key=b"../data.pkl/../1"),
        dict(offset=1),
        dict(offset=-1),
        dict(offset=2**62),
        dict(strides=(4, 2)),
        dict(strides=(-4, 1)),
        dict(strides=(2**62, 2**62)),
        dict(strides=(4,)),
        dict(shape=(4, 4)),
        dict(shape=(-3, -4)),
        dict(shape=(2**32, 2**32), strides=(0, 0)),
        dict(shape=(10**6, 10**6), strides=(0, 0)),
        dict(shape=(0, 2**62, 2**62), strides=(1, 1, 1)),
        dict(shape=(1,) * 64, strides=(1,) * 64),
        dict(more=b"}" + text(b"conj") + b"\x88s"),
        dict(more=b"NN"),
        dict(id=text(b"storage")),
        dict(id=b")"),
        dict(id=b"(" + text(b"module") + text(b"a") + text(b"0") + text(b"cpu") + number(12) + b"t"),
        dict(id=b"(" + text(b"storage") + text(b"FloatStorage") + text(b"0") + text(b"cpu") + number(12) + b"t"),
        dict(id=b"(" + text(b"storage") + b"ctorch\nSize\n" + text(b"0") + text(b"cpu") + number(12) + b"t"),
    ],
)  # fmt: skip
def test_a_tensor_that_its_storage_does_not_hold_is_refused(crafted, tmp_path):
    refused(torch_file(tmp_path / "a.bin", torch_tensor(**crafted)))


def test_archives_that_torch_does_not_write_are_refused(tmp_path):
    path = tmp_path / "a.bin"
    assert "compressed" in refused(torch_file(path, torch_tensor(), [b"\0" * 48], zipfile.ZIP_DEFLATED))
    assert "little-endian" in refused(torch_file(path, torch_tensor(), byteorder="big"))
    assert "not as torch" in refused(torch_file(path, torch_tensor(), root="a/b"))
    with pytest.warns(UserWarning, match="Duplicate"):
        torch_file(path, torch_tensor(), **{"data/0": b"\0" * 48})
    assert "not as torch" in refused(path)
    whole = torch_file(path, torch_tensor()).read_bytes()
    for length in (4, 30, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)
    end = whole.rindex(b"PK\5\6")  # where the directory is, and how long
    path.write_bytes(whole[: end + 12] + b"\xff" * 8 + whole[end + 20 :])
    refused(path)
