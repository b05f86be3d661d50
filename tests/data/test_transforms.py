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
    return transforms.views(image.size[::-1], PictureSettings(**settings), (height, width))[0]


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
    assert transforms.views((30, 40), plain, (16, 16)) == (View((30, 40), (16, 16)),)
    both = transforms.views((30, 40), PictureSettings(random_flip=True), (16, 16))
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
    shown = PictureSettings(resize_mode="pad", random_flip=True)
    view = transforms.views(size, shown, (32, 32))[int(flip)]
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


@pytest.mark.parametrize("mode", ["squeeze", "crop", "pad", "buckets"])
def test_a_mask_goes_the_way_of_its_picture(mode):
    """A picture that is its own mask: after crop, scale and flip, the weights are its brightness."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    image = Image.fromarray(noise)
    for view in transforms.views((24, 40), PictureSettings(resize_mode=mode, random_flip=True), (16, 16)):
        pixels = transforms.to_pixels(image.convert("RGB"), view)[:1]
        weights = transforms.to_weights(image, view, 0.0)
        inside = transforms.to_weights(None, view, 0.0)
        assert np.allclose(weights, (pixels + 1) / 2 * inside, atol=1e-6) and weights.max() > 0.5
        assert np.allclose(transforms.to_weights(image, view, 0.25), (0.25 + 0.75 * weights) * inside, atol=1e-6)


def test_buckets_have_about_the_area_of_the_size_in_steps_that_the_networks_need():
    sizes = transforms.buckets((512, 512), 64)
    assert sizes[0] == (512, 512) and {(384, 640), (640, 384), (448, 576), (576, 448)} <= set(sizes)
    for height, width in sizes:
        assert height % 64 == width % 64 == 0 and 0.7 * 512**2 < height * width <= 512**2
        assert 0.5 <= height / width <= 2
    assert len(set(sizes)) == len(sizes)
    assert {(width, height) for height, width in sizes} == set(sizes) >= {(320, 640)}
    # a small model has small steps; a size that is no multiple of them stays
    assert {(64, 64), (48, 80), (80, 48)} <= set(transforms.buckets((64, 64), 16))
    assert transforms.buckets((40, 24), 64) == ((40, 24),)


@pytest.mark.parametrize(
    "original, size",
    [
        ((500, 500), (512, 512)),
        ((480, 640), (448, 576)),
        ((640, 480), (576, 448)),
        ((1000, 1600), (384, 640)),
        ((1080, 1920), (384, 640)),
        ((100, 5000), (320, 640)),
        ((5000, 100), (640, 320)),
    ],
)
def test_a_picture_has_the_bucket_nearest_to_its_shape(original, size):
    sizes = transforms.buckets((512, 512), 64)
    assert transforms.nearest(original, sizes) == size
    [view] = transforms.views(original, PictureSettings(resize_mode="buckets"), size)
    assert view.size == size and transforms.squeeze(view) == pytest.approx(1)
    assert all(transforms.share_cut_off(view) <= share_cut_off_at(original, other) + 1e-6 for other in sizes)


def share_cut_off_at(original, size):
    [view] = transforms.views(original, PictureSettings(resize_mode="crop"), size)
    return transforms.share_cut_off(view)


def test_a_random_crop_has_five_places_from_one_end_to_the_other():
    shown = PictureSettings(resize_mode="crop", random_crop=True, random_flip=True)
    views = transforms.views((30, 50), shown, (16, 16))
    assert [view.crop[0] for view in views[::2]] == [0, 5, 10, 15, 20] and views[8].crop == (20, 0, 50, 30)
    assert [view.flip for view in views] == [False, True] * 5
    assert [view.crop for view in views[1::2]] == [view.crop for view in views[::2]]
    assert transforms.views((30, 50), PictureSettings(resize_mode="crop"), (16, 16))[0].crop == views[4].crop
    square = View((30, 30), (16, 16))
    assert transforms.views((30, 30), shown, (16, 16)) == (square, square._replace(flip=True))


def test_colours_change_by_their_factors_alone():
    image = Image.new("RGB", (8, 8), (100, 50, 0))
    view = View((8, 8), (8, 8))
    plain = transforms.to_pixels(image, view)
    assert np.array_equal(transforms.to_pixels(image, view._replace(colours=(1.0, 1.0, 1.0))), plain)
    brighter = transforms.to_pixels(image, view._replace(colours=(1.5, 1.0, 1.0)))
    assert np.allclose((brighter + 1) * 127.5, np.array([150, 75, 0]).reshape(3, 1, 1), atol=1)
    grey = transforms.to_pixels(image, view._replace(colours=(1.0, 1.0, 0.0)))
    assert np.allclose(grey, grey[:1]) and not np.allclose(plain, plain[:1])


@pytest.mark.parametrize(
    "size, settings, said",
    [
        ((40, 80), dict(resize_mode="crop"), "80 x 40 to 32 x 32, 50% cut off"),
        ((40, 80), {}, "80 x 40 to 32 x 32, squeezed by 2.00"),
        ((64, 64), dict(resize_mode="crop"), "64 x 64 to 32 x 32"),
    ],
)
def test_a_view_in_words(size, settings, said):
    assert transforms.in_words(transforms.views(size, PictureSettings(**settings), (32, 32))[0]) == said


def test_regions_are_boxes_ellipses_and_whole_pictures_of_all_sizes():
    regions = [transforms.region((48, 32), np.random.default_rng(seed)) for seed in range(300)]
    assert all(each.shape == (1, 48, 32) and each.dtype == np.float32 for each in regions)
    assert all(set(np.unique(each)) <= {0.0, 1.0} and each.any() for each in regions)
    shares = np.array([each.mean() for each in regions])
    assert 0.04 < (shares == 1).mean() < 0.2 and shares.min() < 0.1 and 0.2 < np.median(shares) < 0.6

    def fills_its_box(region):
        rows, columns = np.nonzero(region[0])
        return region[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()

    assert 0.3 < np.mean([fills_its_box(each) for each in regions]) < 0.75
    middles = np.mean([np.argwhere(each[0]).mean(0) for each in regions], axis=0)
    assert np.abs(middles - (23.5, 15.5)).max() < 2
    assert np.array_equal(regions[7], transforms.region((48, 32), np.random.default_rng(7)))
