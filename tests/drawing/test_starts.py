"""Pictures to begin from: read as a person sees them, of the shape that is drawn, with a mask that paints something."""

import re

import numpy as np
import pytest
from PIL import Image

from dreambooth.drawing.inputs import starts
from dreambooth.system.errors import BadInput


@pytest.fixture
def saved(tmp_path):
    """A function: a picture's file."""

    def save(picture, name="picture.png"):
        picture.save(tmp_path / name)
        return str(tmp_path / name)

    return save


def test_a_picture_is_read_on_white_and_upright(saved):
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    assert set(np.unique(starts.read(saved(clear), "--image"))) == {255}
    turned = Image.new("RGB", (6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(path := saved(turned, "turned.jpg"), exif=exif)
    assert starts.read(path, "--image").size == (4, 6)


def test_what_is_no_picture_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.png").write_text("a picture")
    for name, reason in (("none.png", "there is no such file"), ("text.png", "can't be read as a picture")):
        with pytest.raises(BadInput, match=f"--image {re.escape(str(tmp_path / name))}: .*{reason}"):
            starts.read(str(tmp_path / name), "--image")
    with pytest.raises(BadInput, match="it is a folder; give one file"):
        starts.read(str(tmp_path), "--control_image")


def test_a_mask_is_grey_and_has_its_pictures_shape(saved):
    picture = Image.new("RGB", (40, 20))
    mask = starts.read_mask(saved(Image.new("RGB", (20, 10), "white")), picture, "--mask")
    assert mask.mode == "L" and mask.size == (20, 10)
    with pytest.raises(BadInput, match="--mask .*: it has 20 x 20 pixels, another shape .* which has 40 x 20"):
        starts.read_mask(saved(Image.new("L", (20, 20), 255)), picture, "--mask")
    for level in (0, 127):
        with pytest.raises(BadInput, match="no white place, so nothing would be painted"):
            starts.read_mask(saved(Image.new("L", (40, 20), level)), picture, "--mask")
    with pytest.raises(BadInput, match="--mask gone.png: there is no such file"):
        starts.read_mask("gone.png", picture, "--mask")


@pytest.mark.parametrize(
    "width, height, size",
    [
        (64, 64, (64, 64)),
        (4000, 3000, (56, 72)),
        (16, 64, (128, 32)),
        (10, 1000, (640, 8)),
        (1, 1, (64, 64)),
        (1, 10000, (512, 8)),
        (9000, 1, (8, 512)),
    ],
)
def test_a_size_has_the_shape_of_the_picture_and_the_usual_area(width, height, size):
    assert starts.fitting_size(Image.new("L", (width, height)), (64, 64), 8) == size


def test_a_side_that_is_given_decides_about_the_other():
    lying = Image.new("L", (300, 200))
    assert starts.fitting_size(lying, (64, 64), 8, height=32) == (32, 48)
    assert starts.fitting_size(lying, (64, 64), 8, width=96) == (64, 96)
    assert starts.fitting_size(lying, (64, 64), 8, height=20, width=96) == (20, 96)


def test_what_is_of_another_shape_is_cut_off_at_both_ends():
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste("blue", (10, 0, 20, 10))
    middle = np.asarray(starts.fitted(picture, (20, 20)))[:, 6:-6]  # a little of the neighbours is mixed in at the ends
    assert np.array_equal(middle, Image.new("RGB", (8, 20), "blue"))
    start = starts.Start(picture, Image.new("L", (30, 10), 255), 0.4).fitted((10, 10))
    assert start.picture.size == start.mask.size == (10, 10) and start.strength == 0.4
    assert starts.Start(picture).fitted((10, 10)).mask is None


@pytest.mark.parametrize("side", [16, 24, 48, 100])
def test_a_mask_of_another_size_leaves_no_trace_in_what_is_black(side):
    mask = Image.new("L", (48, 48))
    mask.paste(255, (24, 0, 48, 48))
    levels = np.asarray(starts.Start(Image.new("RGB", (48, 48)), mask).fitted((side, side)).mask)
    assert not levels[:, : side // 2].any() and (levels[:, side // 2 :] == 255).all()


def test_a_mask_whose_white_is_gone_at_the_size_is_refused(saved):
    mask = Image.new("L", (256, 256))
    mask.paste(255, (0, 0, 2, 2))
    start = starts.Start(Image.new("RGB", (256, 256)), mask)
    assert start.fitted((256, 256)).mask
    with pytest.raises(BadInput, match="--mask: at 32 x 32 pixels no place of it is white; paint more"):
        start.fitted((32, 32))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_clear_in_a_mask_is_black(saved, mode):
    mask = Image.new("RGBA", (20, 10), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (10, 0, 20, 10))
    read = starts.read_mask(saved(mask.convert(mode)), Image.new("RGB", (40, 20)), "--mask")
    assert not np.asarray(read)[:, :10].any() and (np.asarray(read)[:, 10:] == 255).all()


def test_pictures_of_several_shapes_need_a_size():
    square, wide, large = (Image.new("RGB", size) for size in ((10, 10), (20, 10), (30, 30)))
    starts.check_alike([square, large], ["a.png", "b.png"])
    with pytest.raises(BadInput, match="--control_image: a.png and c.png have different shapes; give --height and"):
        starts.check_alike([square, large, wide], ["a.png", "b.png", "c.png"])


def test_what_is_not_painted_is_kept_to_the_last_bit():
    rng = np.random.default_rng(0)
    picture, drawn = (Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(2))
    mask = Image.new("L", (8, 8))
    mask.paste(255, (4, 0, 8, 8))
    kept = np.asarray(starts.Start(picture, mask).kept(drawn))
    assert np.array_equal(kept[:, :4], np.asarray(picture)[:, :4])
    assert np.array_equal(kept[:, 4:], np.asarray(drawn)[:, 4:])
    assert starts.Start(picture).kept(drawn) is drawn
