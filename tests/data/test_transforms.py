"""What the network sees of a picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from dreambooth.config.sections import PictureSettings
from dreambooth.data import transforms
from dreambooth.data.concepts import Picture, View


def view_of(image, height, width, **settings):
    """The plain view of an image."""
    return transforms.views(image.size[::-1], PictureSettings(height=height, width=width, **settings))[0]


def pixels_of(image, height, width, **settings):
    return transforms.to_pixels(image, view_of(image, height, width, **settings))


@pytest.mark.parametrize("center_crop", [False, True])
def test_pixels_are_float32_from_minus_one_to_one(center_crop):
    image = Image.new("RGB", (40, 30), (0, 255, 51))
    pixels = pixels_of(image, 16, 24, center_crop=center_crop)
    assert pixels.shape == (3, 16, 24) and pixels.dtype == np.float32
    for channel, value in zip(pixels, (-1.0, 1.0, -0.6)):
        assert np.allclose(channel, value, atol=1e-6)


def bordered(shape):
    """Green on blue between two red borders that are cut away by a crop to a square: 80x40, or 40x80."""
    image = Image.new("RGB", (80, 40), "red")
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 0, 59, 39), fill="blue")
    draw.rectangle((30, 10, 49, 29), fill=(0, 255, 0))
    return image if shape == "wide" else image.transpose(Image.Transpose.ROTATE_90)


def extent(channel):
    """(rows, columns) in which a colour is more than half there."""
    there = channel > 0
    return there.any(axis=1).sum(), there.any(axis=0).sum()


@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_center_crop_keeps_the_centre_and_its_shape(shape):
    red, green, blue = pixels_of(bordered(shape), 40, 40, center_crop=True)
    assert extent(red) == (0, 0)
    assert extent(green) == (20, 20) and (green[10:30, 10:30] == 1).all()
    assert extent(blue) == (40, 40)


@pytest.mark.parametrize("shape, borders, inside", [("wide", (40, 20), (20, 10)), ("tall", (20, 40), (10, 20))])
def test_without_center_crop_all_of_the_picture_is_squeezed_in(shape, borders, inside):
    red, green, _ = pixels_of(bordered(shape), 40, 40)
    assert extent(red) == borders and extent(green) == inside


def test_a_centred_crop_has_the_bits_of_pillows_own():
    numbers = np.random.default_rng(0)
    for height, width, target_height, target_width in (
        *((*numbers.integers(1, 90, 2), *(8 * numbers.integers(1, 8, 2))) for _ in range(200)),
        (49, 49, 8, 8),
        (49, 98, 8, 16),
        (11, 33, 8, 24),
    ):
        image = Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8))
        pixels = pixels_of(image, int(target_height), int(target_width), center_crop=True)
        fitted = ImageOps.fit(image, (target_width, target_height), Image.Resampling.BILINEAR)
        expected = (np.asarray(fitted, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)
        assert np.array_equal(pixels, expected), (height, width, target_height, target_width)


def test_a_picture_has_a_mirror_image_only_with_random_flips():
    plain = PictureSettings(resolution=16)
    assert transforms.views((30, 40), plain) == (View((30, 40), (16, 16)),)
    both = transforms.views((30, 40), PictureSettings(resolution=16, random_flip=True))
    assert [view.flip for view in both] == [False, True]
    image = bordered("wide").crop((30, 0, 80, 40))
    one, other = (transforms.to_pixels(image, view) for view in both)
    assert np.array_equal(other, one[:, :, ::-1]) and not np.array_equal(one, other)


@pytest.mark.parametrize(
    "size, target, changed",
    [
        ((512, 512), (512, 512), False),
        ((1000, 1090), (512, 512), False),
        ((1000, 1110), (512, 512), True),
        ((1090, 1000), (512, 512), False),
        ((1110, 1000), (512, 512), True),
        ((768, 512), (768, 512), False),
        ((512, 768), (768, 512), True),
        ((512, 512), (768, 512), True),
    ],
)
def test_a_picture_is_squeezed_where_its_shape_changes_by_more_than_a_tenth(size, target, changed):
    picture = Picture(Path("dog.png"), size, "")
    assert transforms.squeezed([picture], target) == ([picture] if changed else [])


RED, GREY = (1, -1, -1), (0, 0, 0)


@pytest.mark.parametrize("size, inside", [((20, 40), (0, 8, 32, 24)), ((40, 10), (12, 0, 20, 32)), ((7, 7), None)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_padded_picture_lies_in_the_middle_and_about_it_nothing_counts(size, inside, flip):
    shown = PictureSettings(resolution=32, resize_mode="pad", random_flip=True)
    view = transforms.views(size, shown)[int(flip)]
    assert view.inside == inside and view.flip == flip and transforms.squeeze(view) == pytest.approx(1, abs=0.1)
    pixels = transforms.to_pixels(Image.new("RGB", size[::-1], "red"), view)
    weights = transforms.to_weights(None, view, 0.1)
    assert pixels.shape == (3, 32, 32) and weights.shape == (1, 32, 32) and weights.dtype == np.float32
    left, top, right, bottom = inside or (0, 0, 32, 32)
    expected = np.zeros((32, 32), bool)
    expected[top:bottom, left:right] = True
    for row, column in np.ndindex(32, 32):
        assert tuple(pixels[:, row, column].round(6)) == (RED if expected[row, column] else GREY)
        assert weights[0, row, column] == expected[row, column]


@pytest.mark.parametrize("mode", ["squeeze", "crop", "pad"])
def test_a_mask_goes_the_way_of_its_picture(mode):
    """A picture that is its own mask: after crop, scale and flip, the weights are its brightness."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    image = Image.fromarray(noise)
    for view in transforms.views((24, 40), PictureSettings(resolution=16, resize_mode=mode, random_flip=True)):
        pixels = transforms.to_pixels(image.convert("RGB"), view)[:1]
        weights = transforms.to_weights(image, view, 0.0)
        inside = transforms.to_weights(None, view, 0.0)
        assert np.allclose(weights, (pixels + 1) / 2 * inside, atol=1e-6) and weights.max() > 0.5
        assert np.allclose(transforms.to_weights(image, view, 0.25), (0.25 + 0.75 * weights) * inside, atol=1e-6)
