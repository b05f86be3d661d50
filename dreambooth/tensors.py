"""Safetensors files written and read tensor by tensor: the library's own functions hold a whole file in memory, and to
write it two times over."""

import json
from collections.abc import Mapping

import numpy as np

KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "bool": "BOOL"}


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
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, path):
        from safetensors import safe_open

        self.file = safe_open(str(path), framework="numpy")
        self.names = dict.fromkeys(self.file.keys())

    def __getitem__(self, name):
        if name not in self.names:
            raise KeyError(name)
        return self.file.get_tensor(name)

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)

    def __contains__(self, name):
        return name in self.names

    def shapes(self):
        return {name: list(self.file.get_slice(name).get_shape()) for name in self.names}
