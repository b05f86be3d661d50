"""Pickled weights: genuine files of Paddle and torch are read as their own readers read them."""

import io
import pickle

import numpy as np
import paddle
import pytest
from support.crafted_pickles import GENUINE, MATRIX, PICTURES, assert_equal, plain, refused

from dreambooth.files import safetensors, weight_files

BASE = np.arange(24, dtype=np.float32)


# Paddle's files


@pytest.mark.parametrize("name", sorted(path.name for path in GENUINE.glob("paddle*")))
def test_files_of_both_paddles_are_read_as_the_plain_unpickler_reads_them(name):
    expected = plain(GENUINE / name)
    assert_equal(weight_files.load_pickle(GENUINE / name), expected)
    if isinstance(expected, dict):
        weight_files.check(GENUINE / name)
        weights = weight_files.read(GENUINE / name)[0]
        assert weights or "values" in name
        for array in weights.values():
            array[...] = 0  # the caller's own


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_this_paddle_saves_is_read_as_the_plain_unpickler_reads_it(protocol, tmp_path):
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 3), paddle.nn.Conv2D(3, 2, 3), paddle.nn.BatchNorm2D(2))
    rate = paddle.optimizer.lr.CosineAnnealingDecay(1e-3, 10)
    optimizer = paddle.optimizer.AdamW(rate, parameters=layer.parameters())
    layer[0](paddle.ones([1, 4])).sum().backward()
    optimizer.step()
    half = {"w": paddle.to_tensor(MATRIX).astype("bfloat16"), "list": [paddle.to_tensor(MATRIX), (1, "文", None)]}
    for number, saved in enumerate((layer.state_dict(), optimizer.state_dict(), rate.state_dict(), half)):
        path = tmp_path / str(number)
        paddle.save(saved, str(path), protocol=protocol)
        assert_equal(weight_files.load_pickle(path), plain(path))
        assert_equal(weight_files.load_pickle(io.BytesIO(path.read_bytes())), plain(path))


def test_bfloat16_is_widened(tmp_path):
    paddle.save({"w": paddle.to_tensor(MATRIX).astype("bfloat16")}, str(tmp_path / "a.pdparams"))
    assert weight_files.load_pickle(tmp_path / "a.pdparams")["w"].dtype == np.uint16
    assert_equal(weight_files.read(tmp_path / "a.pdparams")[0]["w"], MATRIX)


@pytest.mark.parametrize("file", ["a.safetensors", "a.pdparams"])
def test_integers_are_no_weights(file, tmp_path):
    """Those of a quantized model would be taken for its weights, and noise drawn."""
    write = safetensors.write if file.endswith("safetensors") else weight_files.write_pickled
    genuine = {"embeddings.position_ids": np.arange(3), "w.weight": MATRIX, "half.weight": MATRIX.astype(np.uint16)}
    write(tmp_path / file, genuine)
    weight_files.check(tmp_path / file)
    write(tmp_path / file, {**genuine, "v.weight": MATRIX.astype(np.int8)})
    with pytest.raises(ValueError, match=r"v.weight is of kind int8, and weights are floating point") as caught:
        weight_files.check(tmp_path / file)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")


@pytest.mark.parametrize("protocol", [2, 4])
def test_long_strings_of_protocol_2_are_data(protocol, tmp_path):
    """From a length on, they are read when their array is."""
    large = np.random.default_rng(0).integers(0, 256, (1 << 20) + 1, np.uint8)
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"large": large, "small": MATRIX}, protocol))
    assert_equal(weight_files.load_pickle(tmp_path / "a.pdparams"), {"large": large, "small": MATRIX})


def split():
    """Two arrays as paddle.save splits them under protocols 2 and 3 when they are larger than a gigabyte."""
    return {
        "other": PICTURES,
        "one@@.0": MATRIX.ravel()[:7],
        "one@@.1": MATRIX.ravel()[7:],
        "two@@.0": BASE,
        "UnpackBigParamInfor@@": {
            "one": {"OriginShape": (3, 4), "slices": ["one@@.0", "one@@.1"]},
            "two": {"OriginShape": (24,), "slices": ["two@@.0"]},
        },
    }


def test_what_paddle_splits_is_joined(tmp_path):
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(split(), 2))
    expected = {"other": PICTURES, "one": MATRIX, "two": BASE}
    assert_equal(paddle.load(str(tmp_path / "a.pdparams"), return_numpy=True), expected)  # Paddle itself agrees
    assert_equal(weight_files.load_pickle(tmp_path / "a.pdparams"), expected)
    weight_files.check(tmp_path / "a.pdparams")


@pytest.mark.parametrize(
    "change",
    [
        {"OriginShape": (3, 4), "slices": ["one@@.0", "one@@.0"]},
        {"OriginShape": (3, 4), "slices": ["one@@.0"]},
        {"OriginShape": (-1,), "slices": ["one@@.0", "one@@.1"]},
        {"OriginShape": (3, 4), "slices": ["one@@.0", "nowhere"]},
        {"OriginShape": (3, 4), "slices": 3},
        {"slices": ["one@@.0", "one@@.1"]},
        3,
    ],
)
def test_what_is_split_in_a_wrong_way_is_refused(change, tmp_path):
    saved = split()
    saved["UnpackBigParamInfor@@"]["one"] = change
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(saved, 2))
    refused(tmp_path / "a.pdparams")


def test_a_split_array_that_stands_in_many_places_is_refused(tmp_path):
    """Each of them would be copied."""
    piece = np.zeros(1000, np.float32)
    for slices in ([["a", "b"]], [["a"], ["b"]]):
        arrays = {
            str(number): {"OriginShape": (1000 * len(each),), "slices": each} for number, each in enumerate(slices)
        }
        saved = {"a": piece, "b": piece, "UnpackBigParamInfor@@": arrays}
        (tmp_path / "a.pdparams").write_bytes(pickle.dumps(saved, 2))
        assert "split arrays" in refused(tmp_path / "a.pdparams")


def test_a_table_of_names_that_does_not_fit_is_refused(tmp_path):
    for table in (["w"], {"w": 1}, {"elsewhere": "w_0"}):
        (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"w": MATRIX, "StructuredToParameterName@@": table}))
        refused(tmp_path / "a.pdparams")


def test_what_is_written_is_what_paddle_loads(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    weight_files.write_pickled(tmp_path / "mine.pdparams", layer.state_dict())
    paddle.save({name: value.numpy() for name, value in layer.state_dict().items()}, str(tmp_path / "theirs"))
    mine, theirs = (paddle.load(str(tmp_path / name), return_numpy=True) for name in ("mine.pdparams", "theirs"))
    assert_equal(mine, theirs)
    assert {type(value) for value in plain(tmp_path / "mine.pdparams").values()} == {np.ndarray}
    assert_equal(weight_files.read(tmp_path / "mine.pdparams")[0], theirs)


# torch's files


def test_a_file_of_torch_is_read_with_its_strides(tmp_path):
    """Transposed, in channels_last, views of one storage, tied, of all kinds; what torch itself would give."""
    columns = BASE.reshape(6, 4)
    expected = {
        "matrix": MATRIX,
        "transposed": MATRIX.T,
        "channels_last": PICTURES,
        "rows": columns[2:4],
        "columns": columns[:, 1:3],
        "every_second": BASE[1::2],
        "tied": MATRIX,
        "tied_too": MATRIX,
        "expanded_row": np.arange(5).reshape(1, 5),
        "half": MATRIX.astype(np.float16),
        "bfloat16": MATRIX,
        "double": MATRIX.astype(np.float64),
        **{kind: np.arange(3, dtype=kind) for kind in ("int64", "int32", "int16", "int8", "uint8")},
        "bool": np.array([True, False, True]),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "parameter": MATRIX,
    }
    path = GENUINE / "torch-2.13.0.bin"
    weight_files.check(path)
    weights = weight_files.read(path)[0]
    assert_equal(weights, expected)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in weights.values())
    assert np.shares_memory(weights["tied"], weights["tied_too"])


def test_a_state_dict_of_torch_in_a_training_scripts_file():
    weights = weight_files.read(GENUINE / "torch-2.13.0-layer.pt")[0]
    assert_equal(weights, {"weight": MATRIX, "bias": np.arange(3, dtype=np.float32)})


def test_torchs_old_format_is_refused():
    assert "torch before 1.6" in refused(GENUINE / "torch-2.13.0-old.bin")


def test_a_file_that_is_not_there_is_not_refused_but_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        weight_files.read(tmp_path / "nowhere.pdparams")[0]
