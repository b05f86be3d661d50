"""Weights in files of any kind: safetensors, Paddle's .pdparams, and torch's .bin and .pt, read without torch.

The last three are pickles. Nothing in them is called or imported, as `pickles.interpreter` explains. They may hold
arrays, numbers, texts, lists, tuples and dictionaries. All else is refused; the error names the file and the refused
name.
"""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dreambooth.files import safetensors
from dreambooth.files.pickles.interpreter import Forbidden, Machine, Malformed, Span
from dreambooth.files.pickles.values import PADDLE, TORCH, Archive, StoredArray, View, size_of
from dreambooth.system.patches import storage
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dreambooth.system.types import Array

_PICKLES = (".pdparams", ".pdopt", ".bin", ".pt", ".pth", ".ckpt")
# Arrays may share numbers, as tied weights do; a crafted file shares them until no memory holds the copies
_MOST_SHARED, _ALWAYS_ALLOWED = 8, 64 << 20
_DEEPEST = 30
_OLD_TORCH = 0x1950A86A20F9469CFC6C  # the first value in a file of torch before 1.6
# Paddle's keys for split arrays, and for its tensors' own names
_SPLIT, _NAMES = "UnpackBigParamInfor@@", "StructuredToParameterName@@"


class RefusedPickle(ValueError):
    """A pickle that needs more than weights, or is damaged: one line that begins with the file's name."""


def write_pickled(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> None:
    """Write {name: tensor} as paddle.save writes a dictionary of arrays.

    Python's pickler alone would keep everything that it has written in memory until the end.
    """
    with open(path, "wb") as file:
        pickler = _Pickler(file, protocol=4)
        pickler.fast = True
        pickler.dump(dict(tensors))


class _Pickler(pickle.Pickler):
    """A pickler that turns each tensor of Paddle into an array when its turn comes."""

    @override
    def reducer_override(self, tensor: object) -> Any:  # noqa: ANN401  as the base class has it
        return tensor.numpy().__reduce_ex__(4) if hasattr(tensor, "numpy") else NotImplemented


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the weights in a file, with bfloat16 widened to float32, and its metadata.

    A pickle has none; its "format" is "pd" or "pt", as in safetensors of Paddle and torch. A ValueError names the file
    and its fault.
    """
    if not _is_pickle(path):
        reader = safetensors.Reader(path)
        return dict(reader), reader.metadata() or {}
    with open(path, "rb") as file:
        metadata = {"format": "pt" if _is_archive(file) else "pd"}
        found = _weights(_read_pickle(file, str(path)), path)
    return {
        name: safetensors.widened(value) if value.dtype == np.uint16 else value for name, value in found.items()
    }, metadata


def check(path: str | os.PathLike[str]) -> None:
    """Raise the errors of `read`, but read no numbers."""
    for name, (kind, _) in _kinds_and_shapes(path).items():
        # the libraries would take a quantized model's integers for its weights; a uint16 is Paddle's bfloat16
        if kind.kind in "iub" and kind != np.uint16 and name.endswith((".weight", ".bias")):
            raise ValueError(f"{path}: {safetensors.shown(name)} is of kind {kind}, and weights are floating point")


def count(path: str | os.PathLike[str]) -> int:
    """Count the numbers of all weights in a file, but read none of them; the errors are those of `read`."""
    return sum(math.prod(shape) for _, shape in _kinds_and_shapes(path).values())


def _kinds_and_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[np.dtype[Any], Sequence[int]]]:
    """Return {name: (kind of number, shape)}."""
    if not _is_pickle(path):
        return {name: (entry.dtype, entry.shape) for name, entry in safetensors.header(path).entries.items()}
    with open(path, "rb") as file:
        found = _weights(_read_pickle(file, str(path), with_numbers=False), path)
    return {name: (array.dtype, array.shape) for name, array in found.items()}


def load_pickle(source: str | os.PathLike[str] | BinaryIO) -> object:
    """Return the content of a file as Python's unpickler would.

    Paddle's bfloat16 stays uint16, as Paddle has it; that of torch is widened to float32.
    """
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return _read_pickle(file, str(source))
    return _read_pickle(source, str(getattr(source, "name", "a pickle in memory")))


# what libraries.load gives to the libraries
READERS = storage.Readers(safetensors.Reader, load_pickle)


def _is_pickle(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix in _PICKLES


def _is_archive(file: BinaryIO) -> bool:
    """Check whether a file is a zip archive of torch."""
    begin = file.tell()
    start = file.read(4)
    file.seek(begin)
    return start == b"PK\x03\x04"


def _weights(found: object, path: str | os.PathLike[str]) -> dict[str, Array]:
    """Pick the arrays out of a file's content. Some training scripts put them under state_dict."""
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise RefusedPickle(f"{path}: it holds no weights by name, but a {type(found).__name__}")
    weights = {}
    for name, value in found.items():
        if isinstance(value, tuple) and len(value) == 2:  # a tensor of Paddle beside its own name
            value = value[1]
        if isinstance(name, str) and isinstance(value, np.ndarray):
            weights[name] = value
    return weights


def _read_pickle(file: BinaryIO, name: str, with_numbers: bool = True) -> object:
    """Run the pickle of a file, and turn its result into plain values. Leave the file where the pickle ends."""
    begin, size = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(begin)
    try:
        if _is_archive(file):
            archive = Archive(file)
            machine = Machine(file, *archive.pickle, functions=TORCH, stored=archive.storage)
        else:
            machine = Machine(file, begin, size, functions=PADDLE)
        made = machine.run()
        end = file.tell()
        plain = _Plain(file, machine.opcodes, _MOST_SHARED * size + _ALWAYS_ALLOWED, with_numbers).value(made)
        file.seek(end)
        if type(plain) is int and plain == _OLD_TORCH:
            raise Malformed("it is in the format of torch before 1.6")
        return _paddles_own(plain, with_numbers) if isinstance(plain, dict) else plain
    except Forbidden as error:
        reason = (
            f"it refers to {error}, which weights do not need; nothing of it was run; use a safetensors file instead"
        )
    except Malformed as error:
        reason = f"it can't be read as weights ({error})"
    except Exception as error:  # whatever a crafted file brings about, its reader sees one kind of error
        reason = f"it can't be read as weights ({type(error).__name__})"
    raise RefusedPickle(f"{name}: {reason}")


class _Plain:
    """The plain values in the result of a pickle: arrays, numbers, texts, lists, tuples and dictionaries.

    A value may stand in several places. So the walk is bounded by the number of opcodes, and the arrays by the size of
    the file. Without numbers, the arrays have the right shapes and take no memory.
    """

    def __init__(self, file: BinaryIO, most_values: int, most_bytes: int, with_numbers: bool) -> None:
        self.file, self.values, self.bytes, self.with_numbers = file, most_values, most_bytes, with_numbers
        # by the identity of what they are made of, which the caller keeps
        self.made: dict[int, Array] = {}

    def value(self, value: object, depth: int = 0) -> object:
        """Return a value of the pickle in plain form."""
        self.values -= 1
        if self.values < 0 or depth > _DEEPEST:
            raise Malformed("it is nested too deeply")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return type(value)([self.value(each, depth + 1) for each in value])
        if isinstance(value, dict):
            return type(value)((key, self.value(each, depth + 1)) for key, each in value.items())
        if isinstance(value, (bytes, Span)):
            return self._bytes(value).tobytes() if self.with_numbers else b""
        if not isinstance(value, (StoredArray, View)):
            raise Malformed("it holds what is neither array nor number nor text")
        array = self.made.get(id(value))
        if array is None:
            array = self.made[id(value)] = self._array(value)
        self._take(array.nbytes)  # in each place: the libraries copy it there
        return array[()] if isinstance(value, StoredArray) and value.is_scalar else array

    def _array(self, value: StoredArray | View) -> Array:
        if not self.with_numbers:
            return _numberless(value.shape, value.dtype)
        if isinstance(value, StoredArray):
            return _typed(self._bytes(value.data), value.dtype).reshape(
                value.shape, order="F" if value.is_fortran else "C"
            )
        storage = value.storage
        whole = self.made.get(id(storage))
        if whole is None:
            whole = _typed(self._bytes(storage.span), storage.dtype)
            whole = self.made[id(storage)] = safetensors.widened(whole) if storage.is_bfloat16 else whole
        size = whole.itemsize
        view: Array = np.ndarray(
            value.shape, whole.dtype, whole, value.offset * size, [each * size for each in value.strides]
        )
        if view.flags.c_contiguous:
            return view
        self._take(view.nbytes)
        return view.copy(order="C")

    def _bytes(self, data: bytes | Span) -> Array:
        """Read bytes from where they are, into an array that can be written to."""
        if isinstance(data, Span) and data.is_text:
            self._take(2 * data.length)
            self.file.seek(data.offset)
            data = self.file.read(data.length).decode("utf-8").encode("latin-1")
        length = data.length if isinstance(data, Span) else len(data)
        self._take(length)
        if isinstance(data, bytes):
            return np.frombuffer(data, np.uint8).copy()
        found = np.empty(length, np.uint8)
        self.file.seek(data.offset)
        if self.file.readinto(found) != length:  # type: ignore[attr-defined]
            raise Malformed("it is cut short")
        return found

    def _take(self, length: int) -> None:
        self.bytes -= length
        if self.bytes < 0:
            raise Malformed("its arrays would take far more memory than the file has bytes")


def _typed(numbers: Array, dtype: np.dtype[Any]) -> Array:
    """View bytes as numbers, in this machine's byte order as NumPy's own unpickling has them."""
    if dtype.kind == "b":
        return safetensors.as_bools(numbers)
    return numbers.view(dtype).astype(dtype.newbyteorder("="), copy=False)


def _paddles_own(found: dict[Any, Any], with_numbers: bool) -> dict[Any, Any]:
    """Join what paddle.save splits under protocols 2 and 3, which have no long byte strings.

    Also check the table of names, which paddle.load trusts.
    """
    names = found.get(_NAMES, {})
    if not isinstance(names, dict) or not all(key in found and isinstance(names[key], str) for key in names):
        raise Malformed("its table of names does not fit")
    joined: set[int] = set()  # the identities of all pieces: one that stands in two places would be copied twice
    for name, entry in found.pop(_SPLIT, {}).items():
        pieces, shape = [found.pop(piece) for piece in entry["slices"]], tuple(entry["OriginShape"])
        before, joined = len(joined), joined | {id(piece) for piece in pieces}
        if len(joined) != before + len(pieces):
            raise Malformed("its split arrays do not fit")
        if {piece.ndim for piece in pieces} != {1} or sum(piece.size for piece in pieces) != size_of(shape):
            raise Malformed("its split arrays do not fit")
        dtype = pieces[0].dtype
        found[name] = np.concatenate(pieces).reshape(shape) if with_numbers else _numberless(shape, dtype)
    return found


def _numberless(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
