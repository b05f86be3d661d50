"""The weights in a network's folder, read and compared."""

from pathlib import Path

import numpy as np


def weights(folder):
    """All weights of a network's folder, whatever their format."""
    import paddle
    from safetensors.numpy import load_file

    [path] = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.pdparams")]
    if path.suffix == ".safetensors":
        return load_file(path)
    return {name: value for name, value in paddle.load(str(path), return_numpy=True).items() if hasattr(value, "shape")}


def assert_same(one, other):
    """Two networks' folders hold the same weights, bit for bit."""
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and one
    for name in one:
        assert np.array_equal(one[name], other[name]), name


def largest_difference(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and one
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def mean_difference(one, other):
    """The mean over the networks' tensors of the mean difference in each."""
    one, other = weights(one), weights(other)
    return float(np.mean([np.abs(one[name] - other[name]).mean() for name in one]))
