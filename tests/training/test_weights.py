"""Other values in place of the weights: they come back bit for bit."""

import numpy as np
import paddle
import pytest

from dreambooth.training import weights


def test_values_are_in_place_within_the_context_and_keep_their_memory():
    named, values = {"a": paddle.ones([2])}, {"a": paddle.full([2], 3.0)}
    address = named["a"].data_ptr()
    with pytest.raises(KeyError), weights.exchanged(values, named):
        assert named["a"].tolist() == [3, 3] and values["a"].tolist() == [1, 1]
        raise KeyError
    assert named["a"].tolist() == [1, 1] and values["a"].tolist() == [3, 3] and named["a"].data_ptr() == address


def test_without_values_nothing_happens():
    named = {"a": paddle.ones([2])}
    with weights.exchanged({}, named):
        assert named["a"].tolist() == [1, 1]


def test_a_checkpoints_values_are_read_for_all_weights():
    named = {"a": paddle.ones([2])}
    assert weights.restored({"a": np.array([5, 6], np.float32), "b": np.ones(1)}, named)["a"].tolist() == [5, 6]
    assert weights.restored({}, named)["a"].tolist() == [1, 1]  # it did not train then
