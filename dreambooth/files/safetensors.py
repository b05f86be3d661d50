"""Weights in the safetensors format, written and read tensor by tensor: the libraries' own functions hold a whole file
in memory, and two copies of it to write it."""

import json
import os
from collections.abc import Mapping

import numpy as np

LONGEST_HEADER = 100_000_000
KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "bool": "BOOL"}
# NumPy has no bfloat16, which is the upper half of a float32
TYPES = {**{short: name for name, short in KINDS.items()}, "BF16": "uint16"}


def write(path, tensors, metadata=None):
    """Write {name: tensor of Paddle or NumPy} in the format of https://github.com/huggingface/safetensors: the length
    of the header, the header, and each tensor's numbers without a gap, the widest first so that all are aligned."""
    kinds = {name: str(tensor.dtype).removeprefix("paddle.") for name, tensor in tensors.items()}
    order = sorted(tensors, key=lambda name: (-np.dtype(kinds[name]).itemsize, name))
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name in order:
        shape = list(tensors[name].shape)
        begin, end = end, end + np.dtype(kinds[name]).itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": KINDS[kinds[name]], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            np.ascontiguousarray(tensors[name].numpy() if hasattr(tensors[name], "numpy") else tensors[name]).tofile(
                file
            )


class Reader(Mapping):
    """The tensors of a file, each read when it is asked for. It also has the few verbs of the library's own reader that
    PPDiffusers uses."""

    def __init__(self, path, framework=None):
        self.path = str(path)
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self.header, self.begin = json.loads(file.read(min(length, LONGEST_HEADER))), 8 + length
            self.said = self.header.pop("__metadata__", None)
            lengths = [self.bytes_of(each) for each in self.header.values()]
            whole = self.begin + sum(lengths) == os.path.getsize(path)
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise ValueError(f"{path}: it was cut short, or it is no safetensors file")
        for name, each in self.header.items():
            if each["dtype"] not in TYPES:
                raise ValueError(f"{path}: {name} is {each['dtype']}, which is not known here")

    @staticmethod
    def bytes_of(each):
        """The length of a tensor, which its place and its shape have to agree on."""
        first, last = each["data_offsets"]
        kind = TYPES.get(each["dtype"])
        if kind and last - first != np.dtype(kind).itemsize * int(np.prod(each["shape"], dtype=np.int64)):
            raise ValueError("shape and length differ")
        return last - first

    def __getitem__(self, name):
        each = self.header[name]
        kind, (first, last) = np.dtype(TYPES[each["dtype"]]), each["data_offsets"]
        count = (last - first) // kind.itemsize
        numbers = np.fromfile(self.path, kind, count, offset=self.begin + first)
        if each["dtype"] == "BF16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers.reshape(each["shape"])

    def __contains__(self, name):
        return name in self.header

    def __iter__(self):
        return iter(self.header)

    def __len__(self):
        return len(self.header)

    def shapes(self):
        return {name: list(each["shape"]) for name, each in self.header.items()}

    get_tensor = __getitem__

    def metadata(self):
        return self.said

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def header(path):
    """(what a safetensors file says of its tensors, where they begin)."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length
