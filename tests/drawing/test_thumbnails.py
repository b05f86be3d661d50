"""Small copies of pictures inside a page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from dreambooth.drawing import thumbnails


def opened(copy):
    kind, data = copy.address.removeprefix("data:image/").split(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format.lower() == kind and picture.size == (copy.width, copy.height)
    return picture


def test_a_large_picture_becomes_smaller_and_keeps_its_shape():
    copy = thumbnails.of(Image.effect_noise((1000, 500), 60), 256)
    assert (copy.width, copy.height) == (256, 128) and not copy.is_small
    assert opened(copy).format == "JPEG"


def test_a_small_picture_keeps_each_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    copy = thumbnails.of(Image.fromarray(pixels), 512)
    assert copy.is_small and np.array_equal(np.asarray(opened(copy).convert("RGB")), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode_have_a_copy(mode):
    opened(thumbnails.of(Image.new(mode, (200, 150)), 180))


def test_no_text_of_a_picture_gets_into_its_copy(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("prompt", "a secret prompt")
    Image.new("RGB", (300, 300), "red").save(tmp_path / "a.png", pnginfo=text)
    copy = thumbnails.of_file(tmp_path / "a.png", 200)
    assert "prompt" not in opened(copy).info


def test_what_is_no_picture_has_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert thumbnails.of_file(tmp_path / "a.png", 64) is None
    assert thumbnails.of_file(tmp_path / "missing.png", 64) is None
    assert thumbnails.of_file(tmp_path, 64) is None


def test_a_file_that_changes_is_copied_anew(tmp_path):
    import os

    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    first = thumbnails.of_file(path, 64)
    Image.new("RGB", (8, 8), "blue").save(path)
    os.utime(path, ns=(1, 1))
    assert first != thumbnails.of_file(path, 64)
