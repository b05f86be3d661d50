"""Weights in Paddle's own format, which is a pickle."""

import pickle


def write_pickled(path, tensors):
    """Write {name: tensor} as paddle.save writes a dictionary of arrays. Python's pickler alone would remember all
    that it has written until the end."""
    with open(path, "wb") as file:
        pickler = Pickler(file, protocol=4)
        pickler.fast = True
        pickler.dump(dict(tensors))


class Pickler(pickle.Pickler):
    """Turns each tensor of Paddle into an array when its turn comes."""

    def reducer_override(self, tensor):
        return tensor.numpy().__reduce_ex__(4) if hasattr(tensor, "numpy") else NotImplemented
