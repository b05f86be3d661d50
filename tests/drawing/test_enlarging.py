"""Enlarging drawn pictures: by the model's factor, each with its prompt, whatever is enlarged beside it."""

import numpy as np
import pytest
from PIL import Image
from support.families import load_family

from dreambooth.config.commands import DrawSettings
from dreambooth.drawing.inputs import enlarging
from dreambooth.system.errors import BadInput

SETTINGS = DrawSettings(0, "picture", (32, 32), 2)


def pictures(count, width=16, height=16):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(count)]


@pytest.fixture
def family(upscaler_twin):
    return load_family(upscaler_twin)


def enlarged(family, drawn):
    return [np.asarray(each) for each in enlarging.enlarged(family, SETTINGS, drawn)]


def test_each_picture_is_enlarged_as_if_it_were_alone(family):
    drawn = list(zip(pictures(3), [("a dog", 0), ("snow", 0), ("a dog", 1)]))
    together = enlarged(family, drawn)
    assert all(each.shape == (32, 32, 3) for each in together)
    for one, other in zip(drawn, together):
        assert np.array_equal(enlarged(family, [one])[0], other)
    [of_another_prompt] = enlarged(family, [(drawn[0][0], ("snow", 0))])
    assert not np.array_equal(of_another_prompt, together[0])


def test_pictures_of_any_shape_are_enlarged_by_the_factor(family):
    [found] = enlarged(family, [(pictures(1, width=24, height=10)[0], ("a dog", 0))])
    assert found.shape == (16, 48, 3)  # in steps of 8
    assert enlarging.fitting_size(family, (12, 27)) == (24, 48)
    assert enlarging.fitting_size(family, (pictures(1, width=24)[0].height, 24), height=64) == (64, 96)


def test_a_model_that_does_not_enlarge_is_refused(twin):
    with pytest.raises(
        BadInput, match="--upscaler ./x: it is a model of StableDiffusionPipeline, which enlarges no pictures"
    ):
        enlarging.check(load_family(twin), "./x")
