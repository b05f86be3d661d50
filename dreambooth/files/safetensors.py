"""Safetensors files (https://github.com/huggingface/safetensors), written and read one tensor at a time.

The library's own functions keep a whole file in memory, and twice to write it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dreambooth.system.types import override

if TYPE_CHECKING:
    from types import TracebackType

    from dreambooth.system.types import Array

LONGEST_HEADER = 100_000_000
_MOST_DIMENSIONS = 32  # of NumPy 1; a longer shape would also make its product slow
_KINDS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "BF16": "uint16",  # NumPy has no bfloat16
}
_SHORT = {name: short for short, name in _KINDS.items() if short != "BF16"}


class Entry(NamedTuple):
    """The kind, shape and position of one tensor; its offsets count from the end of the header."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The kind of number as it is stored; bfloat16 is a uint16."""
        return np.dtype(_KINDS[self.kind])


class Header(NamedTuple):
    """The checked header of a file, and the offset of the first tensor."""

    entries: dict[str, Entry]
    metadata: dict[str, str] | None
    begin: int


def write(path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write {name: tensor of Paddle or NumPy}.

    The file is the length of the header, the header, and each tensor's numbers without a gap, the widest first so that
    all are aligned.
    """
    kinds = {name: str(tensor.dtype).removeprefix("paddle.") for name, tensor in tensors.items()}
    shorts = {name: _SHORT[kind] for name, kind in kinds.items()}
    order = sorted(tensors, key=lambda name: (-np.dtype(kinds[name]).itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in order:
        shape = list(tensors[name].shape)
        begin, end = end, end + np.dtype(kinds[name]).itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": shorts[name], "shape": shape, "data_offsets": [begin, end]}
    with open(path, "wb") as file:
        file.write(_encoded(header))
        for name in order:
            tensor = tensors[name].numpy() if hasattr(tensors[name], "numpy") else tensors[name]
            np.ascontiguousarray(tensor).tofile(file)


def copy_renamed(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rename: Callable[[str], str],
    metadata: Mapping[str, str],
) -> None:
    """Copy a file with its tensors under other names and with other metadata."""
    entries, _, begin = header(source)
    renamed: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, entry in entries.items():
        span = [entry.begin, entry.end]
        renamed[rename(name)] = {"dtype": entry.kind, "shape": entry.shape, "data_offsets": span}
    with open(source, "rb") as old, open(target, "wb") as new:
        old.seek(begin)
        new.write(_encoded(renamed))
        shutil.copyfileobj(old, new)


def header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a file, and no tensor. ValueError names the file and the fault."""
    try:
        return _checked_header(Path(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


class Slice:
    """A tensor, whole under [:] even where it is a single number."""

    def __init__(self, tensor: Array) -> None:
        self.tensor = tensor

    def __getitem__(self, index: Any) -> Array:  # noqa: ANN401  as NumPy has it
        return self.tensor if index == slice(None) else self.tensor[index]


class Reader(Mapping[str, "Array"]):
    """The tensors of a file, each read on access. Every fault of a file is a ValueError with its name.

    The class has the few methods of the library's own reader that PPDiffusers and PaddleNLP use, which open a file with
    `framework` and `device` too.
    """

    def __init__(self, path: str | os.PathLike[str], framework: str | None = None, device: str | None = None) -> None:
        self.path = str(path)
        self._header = header(path)

    @override
    def __getitem__(self, name: str) -> Array:
        kind, shape, begin, end = self._header.entries[name]
        stored = np.dtype("uint8" if kind == "BOOL" else _KINDS[kind])
        count = (end - begin) // stored.itemsize
        numbers = np.fromfile(self.path, stored, count, offset=self._header.begin + begin)
        if numbers.size != count:
            raise ValueError(f"{self.path}: the file has become shorter; {shown(name)} is no longer there")
        if kind == "BOOL":
            numbers = as_bools(numbers)
        elif kind == "BF16":
            numbers = widened(numbers)
        return numbers.reshape(shape)

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._header.entries

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._header.entries)

    @override
    def __len__(self) -> int:
        return len(self._header.entries)

    def shapes(self) -> dict[str, list[int]]:
        """Return {name: shape} without reading a tensor."""
        return {name: list(entry.shape) for name, entry in self._header.entries.items()}

    def metadata(self) -> dict[str, str] | None:
        """Return the text beside the tensors."""
        return self._header.metadata

    get_tensor = __getitem__

    def get_slice(self, name: str) -> Slice:
        """Return a tensor of which an index picks a part, as PaddleNLP reads it."""
        return Slice(self[name])

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def widened(upper: Array) -> Array:
    """Return bfloat16 numbers, each stored as a uint16, as float32, of which they are the upper half."""
    return (upper.astype(np.uint32) << 16).view(np.float32)


def as_bools(stored: Array) -> Array:
    """Return stored bytes as bools: a byte of a file may be neither 0 nor 1, on which NumPy counts."""
    return np.not_equal(stored, 0)


def shown(name: str) -> str:
    """Return a name out of a foreign file in a form that fits into one line."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= 100 else f"{text[:100]}…"


def _encoded(entries: Mapping[str, Any]) -> bytes:
    """Return the header as it is in a file, after its length and padded to whole words."""
    text = json.dumps(entries, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _checked_header(path: Path) -> Header:
    """Read a header. The tensors must fill the rest of the file without gap and overlap, as the format demands."""
    with open(path, "rb") as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(8)
        if len(start) < 8:
            raise ValueError("no safetensors file, or cut short: it has fewer than 8 bytes")
        length = int.from_bytes(start, "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"no safetensors file: a header of {length} bytes, more than {LONGEST_HEADER}")
        if 8 + length > size:
            raise ValueError(f"no safetensors file, or cut short: a header of {length} bytes in a file of {size}")
        text = file.read(length)
    known = _parsed(text)
    metadata = known.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise ValueError("invalid safetensors file: its __metadata__ does not map text to text")
    entries = {name: _checked_entry(name, value) for name, value in known.items()}
    _check_tiling(entries, size - 8 - length)
    return Header(entries, metadata, 8 + length)


def _parsed(text: bytes) -> dict[str, Any]:
    """Return the JSON object of a header."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("a name that stands twice")
        for name in found:
            name.encode()  # an escape may stand for half a character
        return found

    def integer(digits: str) -> int:
        if len(digits) > 19 or digits.startswith("-"):
            raise ValueError(f"a number out of bounds, {digits[:20]}")
        return int(digits)

    def refused(number: str) -> None:
        raise ValueError(f"a number that is no integer, {number[:20]}")

    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not start with {")
        found: dict[str, Any] = json.loads(
            text.decode(), object_pairs_hook=pairs, parse_int=integer, parse_float=refused, parse_constant=refused
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no safetensors file: its header can't be read ({error})") from None
    return found


def _checked_entry(name: str, value: object) -> Entry:
    """Return the kind, shape and offsets of one tensor, which have to agree."""
    bad = f"invalid safetensors file: {shown(name)}"
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise ValueError(f"{bad} lacks its dtype, shape or data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str):
        raise ValueError(f"{bad} has a dtype that is no text")
    if kind not in _KINDS:
        raise ValueError(f"{shown(name)} is of kind {shown(kind)}, which is not known here")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{bad} has an invalid shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{bad} has invalid data_offsets")
    length = size = np.dtype(_KINDS[kind]).itemsize
    for side in shape:
        length, size = length * side, size * max(side, 1)
    if size >= 2**63 or length != offsets[1] - offsets[0]:
        raise ValueError(f"{bad} has a shape and data_offsets that do not agree")
    return Entry(kind, tuple(shape), *offsets)


def _are_counts(value: object) -> bool:
    """Check whether JSON has a list of integers from 0; True is none."""
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _check_tiling(entries: Mapping[str, Entry], length: int) -> None:
    """Check that the tensors lie side by side in the `length` bytes after the header."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            what = "overlaps another tensor" if entry.begin < end else "begins after a gap"
            raise ValueError(f"invalid safetensors file: {shown(name)} {what}")
        end = entry.end
    if end > length:
        raise ValueError(f"cut short: {end - length} bytes of its tensors are missing")
    if end < length:
        raise ValueError(f"invalid safetensors file: {length - end} bytes follow its last tensor")
