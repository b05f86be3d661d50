"""The values in a pickle of weights: NumPy's arrays as Paddle writes them, and torch's tensors in their zip archive.

Each function here stands for a name of NumPy's, Python's or torch's, and takes arguments that a stranger has chosen.
None calls the thing that it stands for.
"""

from __future__ import annotations

import collections
import math
import os
import struct
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, TypeGuard

import numpy as np

from dreambooth.files.pickles.interpreter import Buildable, Malformed, Name, Span
from dreambooth.files.safetensors import shown
from dreambooth.system.types import override

if TYPE_CHECKING:
    from dreambooth.files.pickles.interpreter import Functions

# NumPy's kinds as it writes them. An object array could hold any value
_KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}
_MOST_DIMENSIONS = 32


# NumPy's arrays


class Type(Buildable):
    """A NumPy dtype: its kind, and then its byte order."""

    def __init__(self, kind: object, align: object = False, copy: object = True) -> None:
        if not isinstance(kind, str) or kind not in _KINDS:
            raise Malformed(f"it has numbers of kind {shown(str(kind))}")
        self.dtype = np.dtype(kind)

    @override
    def build(self, state: object) -> None:
        """Take the byte order, and check that there is nothing else."""
        if not isinstance(state, tuple) or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise Malformed("it has numbers of an unknown kind")
        if state[2:] != (None, None, None, -1, -1, 0):
            raise Malformed("it has arrays of more than numbers")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class StoredArray(Buildable):
    """A NumPy array: empty, and then the position of its numbers."""

    shape: tuple[int, ...] = (0,)
    dtype = np.dtype("i1")
    data: bytes | Span = b""
    is_fortran: object = False
    is_scalar = False

    @override
    def build(self, state: object) -> None:
        """Take shape, kind, order and numbers, which have to agree."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Type):
            raise Malformed("it has an array of an unknown kind")
        _, self.shape, kind, self.is_fortran, data = state
        self.dtype, self.data = kind.dtype, _data(data)
        most = least = size_of(self.shape) * self.dtype.itemsize
        if isinstance(self.data, Span) and self.data.is_text:
            most *= 2  # half of the letters of Latin-1 take two bytes
        if not least <= (self.data.length if isinstance(self.data, Span) else len(self.data)) <= most:
            raise Malformed("it has an array whose shape and length do not agree")


def _data(value: object) -> bytes | Span:
    """Return bytes, also for the text that stands for them."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, (bytes, Span)):
        raise Malformed("it has an array without numbers")
    return value


def size_of(shape: object) -> int:
    """Return the number of elements of a shape; Malformed if NumPy cannot have it."""
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS or not all(_is_count(side) for side in shape):
        raise Malformed("it has an array of no proper shape")
    if math.prod(max(side, 1) for side in shape) >= 2**58:  # NumPy counts bytes in 64 bits
        raise Malformed("it has an array of no proper shape")
    return math.prod(shape)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63


def _reconstruct(kind: object, shape: object, code: object) -> StoredArray:
    if kind != Name("numpy", "ndarray"):
        raise Malformed("it makes an array of an unknown class")
    return StoredArray()


def _scalar(kind: object, data: object) -> StoredArray:
    array = StoredArray()
    array.build((1, (), kind, False, data))
    array.is_scalar = True
    return array


def _encode(text: object, encoding: object) -> bytes | Span:
    """Return the bytes that a text stands for in protocol 2, which has no bytes."""
    if encoding != "latin1" or not isinstance(text, (str, Span)):
        raise Malformed("it encodes a text in an unknown way")
    return _data(text)


def _tuple(values: object) -> tuple[object, ...]:
    if not isinstance(values, (list, tuple)):
        raise Malformed("it makes a tuple of what is no list")
    return tuple(values)


def _ordered(*nothing: object) -> collections.OrderedDict[str, object]:
    if nothing:
        raise Malformed("it makes a dictionary in an unknown way")
    return collections.OrderedDict()


def _no_bytes(*nothing: object) -> bytes:
    if nothing:
        raise Malformed("it makes bytes in an unknown way")
    return b""


PADDLE: Functions = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): Type,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    **{(module, "tuple"): _tuple for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
}


# torch's tensors


class Storage:
    """The numbers that one or several tensors of torch are views of."""

    def __init__(self, kind: str, span: Span, count: int) -> None:
        self.is_bfloat16 = kind == "bf16"
        self.dtype = np.dtype("u2" if self.is_bfloat16 else kind)
        self.span, self.count = replace(span, length=count * self.dtype.itemsize), count
        if self.span.length > span.length:
            raise Malformed("it has a tensor that is cut short")


class View:
    """A tensor of torch: a storage, seen with an offset, a shape and strides."""

    def __init__(
        self,
        storage: object,
        offset: object,
        shape: object,
        strides: object,
        gradient: object,
        hooks: object,
        more: object = None,
    ) -> None:
        if more:  # such as the conjugation that torch puts off
            raise Malformed("it has a tensor of a special kind")
        count = size_of(shape)
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise Malformed("it has a tensor of no proper shape")
        if not _is_count(offset) or not all(_is_count(each) for each in strides) or len(strides) != len(shape):
            raise Malformed("it has a tensor of no proper shape")
        last = offset + sum((side - 1) * step for side, step in zip(shape, strides))
        if count and (count > storage.count or last >= storage.count):
            raise Malformed("it has a tensor that reaches out of its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset if count else 0, shape, strides
        self.dtype = np.dtype("f4") if storage.is_bfloat16 else storage.dtype


def _parameter(tensor: object, gradient: object, hooks: object) -> View:
    if not isinstance(tensor, View):
        raise Malformed("it has a parameter that is no tensor")
    return tensor


TORCH: Functions = {
    ("torch._utils", "_rebuild_tensor_v2"): View,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _tuple,
    ("collections", "OrderedDict"): _ordered,
    **{("torch", storage): None for storage in _STORAGES},
}


class Archive:
    """A zip file of torch: the place of its pickle, and its storages.

    They are never compressed, so nothing is larger in memory than on disk.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        try:
            entries = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, struct.error) as error:
            raise Malformed("its zip archive is damaged") from error
        self.entries = {entry.filename: entry for entry in entries}
        pickles = [name for name in self.entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or len(self.entries) != len(entries):
            raise Malformed("it is a zip archive, but not as torch writes it")
        self.root = pickles[0].removesuffix("data.pkl")
        self.storages: dict[tuple[str, str], Storage] = {}
        span = self._find(pickles[0])
        self.pickle = (span.offset, span.offset + span.length)
        order = f"{self.root}byteorder"
        if order in self.entries:
            span = self._find(order)
            file.seek(span.offset)
            if file.read(span.length if span.length < 16 else 0) != b"little":
                raise Malformed("its numbers are not in little-endian order")

    def _find(self, name: str) -> Span:
        """Find the span of a file in the archive."""
        entry = self.entries.get(name)
        if entry is None:
            raise Malformed(f"its archive lacks {shown(name)}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise Malformed("its archive is compressed or encrypted, as torch never writes it")
        self.file.seek(entry.header_offset)
        start = self.file.read(30)
        if len(start) != 30 or start[:4] != b"PK\x03\x04":
            raise Malformed("its zip archive is damaged")
        offset = entry.header_offset + 30 + sum(struct.unpack("<HH", start[26:]))
        if offset + entry.file_size > self.file.seek(0, os.SEEK_END):
            raise Malformed("its zip archive is cut short")
        return Span(offset, entry.file_size)

    def storage(self, reference: object) -> Storage:
        """Resolve a reference of the pickle: ("storage", its class, the name of its file, a device, its length)."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise Malformed("it refers to what is no storage")
        _, kind, key, _, count = reference
        if not isinstance(kind, Name) or kind.name not in _STORAGES or not isinstance(key, str) or not _is_count(count):
            raise Malformed("it refers to what is no storage")
        position = self.file.tell()
        found = self.storages.get((kind.name, key))
        if found is None or found.count != count:
            found = Storage(_STORAGES[kind.name], self._find(f"{self.root}data/{key}"), count)
            self.storages[kind.name, key] = found
        self.file.seek(position)
        return found
