"""Write the genuine files beside this script: `python make.py torch` or `python make.py paddle` in an environment with
that library. The numbers are those that test_weight_files.py expects."""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) / 4
PICTURES = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)


def torchs():
    import torch

    base = torch.arange(24, dtype=torch.float32)
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(MATRIX))
        layer.bias.copy_(torch.arange(3))
    tensors = OrderedDict(
        matrix=torch.from_numpy(MATRIX),
        transposed=torch.from_numpy(MATRIX).t(),
        channels_last=torch.from_numpy(PICTURES).to(memory_format=torch.channels_last),
        rows=base.view(6, 4)[2:4],
        columns=base.view(6, 4)[:, 1:3],
        every_second=base[1::2],
        tied=layer.weight,
        tied_too=layer.weight,
        expanded_row=torch.arange(5).expand(1, -1),
        half=torch.from_numpy(MATRIX).half(),
        bfloat16=torch.from_numpy(MATRIX).bfloat16(),
        double=torch.from_numpy(MATRIX).double(),
        int64=torch.arange(3),
        int32=torch.arange(3, dtype=torch.int32),
        int16=torch.arange(3, dtype=torch.int16),
        int8=torch.arange(3, dtype=torch.int8),
        uint8=torch.arange(3, dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.from_numpy(MATRIX)),
    )
    name = f"torch-{torch.__version__.split('+')[0]}"
    torch.save(tensors, HERE / f"{name}.bin")
    torch.save({"epoch": 3, "state_dict": layer.state_dict()}, HERE / f"{name}-layer.pt")
    torch.save(layer.state_dict(), HERE / f"{name}-old.bin", _use_new_zipfile_serialization=False)


def paddles():
    import paddle

    layer = paddle.nn.Linear(4, 3)
    layer.weight.set_value(MATRIX.T.copy())
    layer.bias.set_value(np.arange(3, dtype=np.float32))
    state = layer.state_dict()
    rate = paddle.optimizer.lr.LambdaDecay(1e-3, lambda step: 0.5)
    optimizer = paddle.optimizer.AdamW(rate, parameters=layer.parameters())
    layer(paddle.ones([1, 4])).sum().backward()
    optimizer.step()
    layer.weight.set_value(MATRIX.T.copy())
    layer.bias.set_value(np.arange(3, dtype=np.float32))
    arrays = {
        "matrix": MATRIX,
        "fortran": np.asfortranarray(MATRIX),
        "half": MATRIX.astype(np.float16),
        "double": MATRIX.astype(np.float64),
        "int64": np.arange(3),
        "int32": np.arange(3, dtype=np.int32),
        "uint8": np.arange(3, dtype=np.uint8),
        "bool": np.array([True, False, True]),
        "big_endian": MATRIX.astype(">f4"),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "complex": MATRIX.astype(np.complex64),
    }
    name = f"paddle-{paddle.__version__}-numpy-{np.__version__.split('.')[0]}"
    for protocol in (2, 3, 4):
        paddle.save(state, str(HERE / f"{name}-layer-{protocol}.pdparams"), protocol=protocol)
        paddle.save(arrays, str(HERE / f"{name}-arrays-{protocol}.pdparams"), protocol=protocol)
        values = {
            "number": np.float32(2.5),
            "list": [paddle.to_tensor(MATRIX), 1, None, True],
            "text": "文",
            "float": 0.5,
        }
        paddle.save(values, str(HERE / f"{name}-values-{protocol}.pdparams"), protocol=protocol)
    paddle.save(optimizer.state_dict(), str(HERE / f"{name}.pdopt"))
    paddle.save(rate.state_dict(), str(HERE / f"{name}-rate.pdopt"))
    paddle.save({"w": paddle.to_tensor(MATRIX).astype("bfloat16")}, str(HERE / f"{name}-bfloat16.pdparams"))
    paddle.save(paddle.to_tensor(MATRIX), str(HERE / f"{name}-alone.pdparams"))


{"torch": torchs, "paddle": paddles}[sys.argv[1]]()
