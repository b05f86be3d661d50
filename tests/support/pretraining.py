"""A pretraining of the small Stable Diffusion, shrunk to two updates of each network."""

import contextlib

import pytest

from miniworld import dataset, pretrain, training, upscaling
from support.clips import CAPTIONS

PICTURES = 12


@contextlib.contextmanager
def small_pretraining():
    """Use few pictures, few captions and two updates of four pictures each."""
    recipe = training.Recipe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "PICTURES", PICTURES)
        patch.setattr(upscaling, "PICTURES", PICTURES)
        patch.setattr(dataset, "CAPTIONS", CAPTIONS)
        patch.setattr(training, "Recipe", lambda updates, batch, **more: recipe(updates=2, batch=4, **more))
        yield


def run_pretraining(folder, *more):
    """Run the command: the stages' results go into work/, the model into packed/."""
    with small_pretraining():
        line = ["--work", str(folder / "work"), "--output", str(folder / "packed"), "--processes", "1"]
        pretrain.main([*line, *more])
    return folder
