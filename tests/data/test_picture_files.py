"""The picture files: which ones count, and how they are read."""

import hashlib
import warnings

import numpy as np
import pytest
from PIL import Image
from support.pictures import draw_pictures

from dreambooth.config.sections import PictureSettings
from dreambooth.data import picture_files
from dreambooth.data.concepts import Picture
from dreambooth.system.errors import BadInput

FORMAT_OF = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "bmp": "BMP", "webp": "WEBP"}
COLOUR = (200, 40, 90)


def find(folder):
    return picture_files.find_pictures(folder, "--instance_data_dir")


def flat(path, colour=COLOUR, size=(16, 8), **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


def colours(path):
    """The first row of a picture as read."""
    return np.asarray(picture_files.open_picture(path))[0].tolist()


# which files count


@pytest.mark.parametrize("extension", [*FORMAT_OF, "PNG", "JPG", "Jpeg", "BMP", "WEBP"])
def test_every_format_is_read_in_any_case_of_its_extension(tmp_path, extension):
    path = flat(tmp_path / f"dog.{extension}", format=FORMAT_OF[extension.lower()])
    [picture], others = find(tmp_path)
    assert picture == Picture(path, (8, 16), hashlib.sha256(path.read_bytes()).hexdigest())
    assert others == []
    assert np.abs(np.array(colours(path)) - COLOUR).max() <= 4  # jpeg and webp are lossy


@pytest.mark.parametrize(
    "name, kind", [("jpeg.png", "JPEG"), ("png", "PNG"), ("webp.jpg", "WEBP"), ("jpeg.txt", "JPEG")]
)
def test_a_picture_is_found_by_its_content(tmp_path, name, kind):
    flat(tmp_path / name, format=kind)
    assert [picture.path.name for picture in find(tmp_path)[0]] == [name]


def test_other_files_are_left_out(tmp_path):
    flat(tmp_path / "dog.png")
    flat(tmp_path / ".hidden.png")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "empty"):
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"\0\1\2 no picture")
    for name in ("more", "folder.png"):
        (tmp_path / name).mkdir()
        flat(tmp_path / name / "cat.png")
    pictures, others = find(tmp_path)
    assert [picture.path.name for picture in pictures] == ["dog.png"]
    assert [path.name for path in others] == ["Thumbs.db", "empty", "notes.txt"]


def test_a_gif_is_refused(tmp_path):
    flat(tmp_path / "dog.png")
    flat(tmp_path / "cat.gif")
    assert [path.name for path in find(tmp_path)[1]] == ["cat.gif"]


@pytest.mark.parametrize(
    "name, kind", [*((f"dog.{extension}", kind) for extension, kind in FORMAT_OF.items()), ("dog", "PNG")]
)
def test_a_truncated_picture_is_refused_by_name(tmp_path, name, kind):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, format=kind)
    whole.rename(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-2000])
    flat(tmp_path / "good.png")
    with pytest.raises(BadInput, match=rf"--instance_data_dir.*{name}\b"):
        find(tmp_path)


@pytest.mark.parametrize("content", [b"", b"a letter, not a picture", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("name", ["dog.jpg", "dog.PNG"])
def test_a_file_with_only_the_name_of_a_picture_is_refused(tmp_path, name, content):
    flat(tmp_path / "good.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=rf"{name}.*replace or remove it"):
        find(tmp_path)


def test_of_several_broken_pictures_the_first_is_named(tmp_path):
    for name in ("10.png", "2.png"):
        (tmp_path / name).write_bytes(b"broken")
    flat(tmp_path / "1.png")
    with pytest.raises(BadInput, match=r"/2\.png"):
        find(tmp_path)


def test_a_scan_continues_after_a_broken_picture(tmp_path):
    (tmp_path / "1.png").write_bytes(b"broken")
    flat(tmp_path / "2.png")
    (tmp_path / "notes.txt").write_text("notes")
    pictures, [complaint], others = picture_files.scan_folder(tmp_path)
    assert [picture.path.name for picture in pictures] == ["2.png"]
    assert "1.png" in complaint and [path.name for path in others] == ["notes.txt"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    for folder, said in ((tmp_path / "missing", "no such folder"), (tmp_path, "empty")):
        with pytest.raises(BadInput, match=rf"--instance_data_dir {folder}: .*{said}"):
            find(folder)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(BadInput, match="none of its 1 files is a picture"):
        find(tmp_path)
    with pytest.raises(BadInput, match="it is a file; give the folder"):
        find(tmp_path / "notes.txt")


NAMES = ["1.png", "01.png", "2.png", "10.png", "a9.png", "a10.png", "a10b2.png", "a10b10.png", "b.png", "狗1.png"]


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    orders = []
    for turn, names in enumerate((NAMES, NAMES[::-1], NAMES[3:] + NAMES[:3])):
        folder = tmp_path / str(turn)
        folder.mkdir()
        for name in names:
            flat(folder / name)
        orders.append([picture.path.name for picture in find(folder)[0]])
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][2:] == NAMES[2:] and set(orders[0][:2]) == {"1.png", "01.png"}


def test_a_broken_link_is_a_picture_that_cannot_be_read(tmp_path):
    (tmp_path / "1.png").symlink_to(tmp_path / "moved away.png")
    with pytest.raises(BadInput, match="1.png"):
        picture_files.find_pictures(tmp_path, "--instance_data_dir")


# how they are read

# how a camera held in each way stores the upright picture
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: np.rot90(upright, 2),
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_exif_orientation_is_applied(tmp_path, orientation, extension):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"dog.{extension}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if extension == "jpg" else {}))
    seen = np.asarray(picture_files.open_picture(path)).astype(int)
    assert seen.shape == upright.shape and np.abs(seen - upright).max() < 8
    assert find(tmp_path)[0][0].size == (16, 32)


def test_transparency_is_shown_on_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    for x, colour in enumerate([(200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 128)]):
        image.putpixel((x, 0), colour)
    image.save(tmp_path / "rgba.png")
    assert colours(tmp_path / "rgba.png") == [[200, 0, 0], [255, 255, 255], [127, 127, 127]]


def test_transparency_beside_grey_is_shown_on_white(tmp_path):
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((0, 0), (50, 255))
    image.save(tmp_path / "la.png")
    assert colours(tmp_path / "la.png") == [[50, 50, 50], [255, 255, 255]]


def two_pixels(mode, first, second):
    image = Image.new(mode, (2, 1), first)
    image.putpixel((1, 0), second)
    return image


def test_a_palettes_transparent_colour_is_white(tmp_path):
    image = two_pixels("P", 0, 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=0)
    assert colours(tmp_path / "opaque.png") == [[10, 20, 30], [40, 50, 60]]
    assert colours(tmp_path / "transparent.png") == [[255, 255, 255], [40, 50, 60]]


def test_a_transparent_colour_is_white(tmp_path):
    two_pixels("RGB", (1, 2, 3), (4, 5, 6)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    two_pixels("L", 7, 8).save(tmp_path / "grey.png", transparency=7)
    assert colours(tmp_path / "rgb.png") == [[255, 255, 255], [4, 5, 6]]
    assert colours(tmp_path / "grey.png") == [[255, 255, 255], [8, 8, 8]]


def test_grey_and_black_and_white_become_rgb(tmp_path):
    two_pixels("L", 0, 77).save(tmp_path / "grey.png")
    two_pixels("1", 0, 1).save(tmp_path / "bits.png")
    assert colours(tmp_path / "grey.png") == [[0, 0, 0], [77, 77, 77]]
    assert colours(tmp_path / "bits.png") == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    "cmyk, rgb", [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))]
)
def test_a_cmyk_jpeg_has_the_right_colours(tmp_path, cmyk, rgb):
    Image.new("CMYK", (8, 8), cmyk).save(tmp_path / "print.jpg", quality=100)
    assert np.abs(np.array(colours(tmp_path / "print.jpg")[0]) - rgb).max() <= 3


def test_a_16_bit_picture_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257, 200 * 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert colours(tmp_path / "deep.png") == [[0, 0, 0], [1, 1, 1], [200, 200, 200], [255, 255, 255]]


def test_why_a_folder_has_no_pictures_is_named(tmp_path):
    def reason():
        with pytest.raises(BadInput) as caught:
            picture_files.find_pictures(tmp_path / "here", "--instance_data_dir")
        return str(caught.value)

    draw_pictures(tmp_path / "here/below", 2)
    (tmp_path / "here/.hidden").mkdir()
    assert f"its pictures are in a folder below it; give {tmp_path / 'here/below'}" in reason()
    (tmp_path / "here/IMG_1.HEIC").write_bytes(b"ftypheic")
    assert "IMG_1.HEIC is in a phone's format" in reason()
    with pytest.raises(BadInput, match=f"it is a file; give the folder that it is in, {tmp_path / 'here/below'}"):
        picture_files.find_pictures(tmp_path / "here/below/0.png", "--instance_data_dir")


def test_a_huge_picture_is_decoded_smaller_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files, "_MANY_PIXELS", 10_000)
    monkeypatch.setattr(picture_files, "_MOST_PIXELS", 10_000)
    image = Image.new("RGB", (400, 200), "red")
    image.save(tmp_path / "huge.jpg")
    assert picture_files.open_picture(tmp_path / "huge.jpg").size == (100, 50)
    [picture] = picture_files.find_pictures(tmp_path, "--instance_data_dir")[0]
    assert picture.size == (50, 100)
    image.save(tmp_path / "huge.png")
    with pytest.raises(BadInput, match="huge.png .*0 megapixels, and at most 0 are read"):
        picture_files.find_pictures(tmp_path, "--instance_data_dir")


@pytest.mark.parametrize("pillows_bound", [60_000, 1_000])  # it warns, or refuses
def test_pillows_own_bound_counts_nowhere(tmp_path, monkeypatch, pillows_bound):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_bound)
    for name in ("huge.jpg", "huge.png"):
        Image.new("RGB", (400, 200), "red").save(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [picture.size for picture in find(tmp_path)[0]] == [(200, 400)] * 2
    assert pillows_bound == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("size, decoded", [((5000, 5000), 5000), ((5000, 5200), 2500), ((9700, 9800), 4850)])
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, size, decoded):
    Image.new("L", size).save(tmp_path / "large.jpg")
    assert picture_files.open_picture(tmp_path / "large.jpg").width == decoded


def test_a_phones_picture_under_another_name_gets_the_same_advice(tmp_path):
    (tmp_path / "dog.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(BadInput, match="dog.jpg is in a phone's format, HEIC, whatever its name; convert it to JPEG"):
        find(tmp_path)


def test_pictures_two_folders_down_are_found(tmp_path):
    (tmp_path / "dogs/mine").mkdir(parents=True)
    flat(tmp_path / "dogs/mine/0.png")
    with pytest.raises(BadInput, match=f"in a folder below it; give {tmp_path}/dogs/mine$"):
        find(tmp_path)


def many_pictures(folder, count):
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (9, 8), (number, 2, 3)).save(folder / f"{number}.png")
    return folder


def test_many_pictures_are_read_by_threads_in_the_same_order(tmp_path, monkeypatch):
    folder = many_pictures(tmp_path / "many", 70)
    (folder / "7.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("words")
    found = {}
    for cores in (1, 3):
        monkeypatch.setattr(picture_files.machine, "cores", lambda cores=cores: cores)
        found[cores] = picture_files.scan_folder(folder)
    assert found[1] == found[3]
    pictures, problems, others = found[3]
    assert [each.path.name for each in pictures] == [f"{number}.png" for number in range(70) if number != 7]
    assert len(problems) == 1 and "7.png" in problems[0] and [each.name for each in others] == ["notes.txt"]


def test_threads_leave_pillows_bound_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files.machine, "cores", lambda: 4)
    before = Image.MAX_IMAGE_PIXELS
    picture_files.scan_folder(many_pictures(tmp_path / "many", 200))
    assert before is not None and before == Image.MAX_IMAGE_PIXELS


def masked_pictures(tmp_path, **settings):
    """Two pictures, one of them with a transparent half, and their masks by these settings."""
    folder = tmp_path / "dog"
    folder.mkdir()
    Image.new("RGB", (8, 6), "red").save(folder / "1.jpg")
    half = Image.new("RGBA", (8, 6), (0, 0, 255, 255))
    half.paste((0, 0, 255, 0), (0, 0, 4, 6))
    half.save(folder / "2.png")
    pictures = picture_files.find_pictures(folder, "--x")[0]
    return picture_files.with_masks(pictures, PictureSettings(resolution=8, **settings))


def test_without_a_flag_there_are_no_masks(tmp_path):
    assert [each.mask for each in masked_pictures(tmp_path)] == [None, None]


def test_transparency_can_be_the_mask(tmp_path):
    opaque, half = masked_pictures(tmp_path, use_alpha=True)
    assert opaque.mask is None and picture_files.open_mask(opaque) is None
    assert np.asarray(picture_files.open_mask(half)).tolist() == [[0] * 4 + [255] * 4] * 6


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "I;16"])
def test_a_mask_is_a_picture_of_the_same_name(tmp_path, mode):
    (tmp_path / "masks").mkdir()
    for name in ("1.png", "2.png"):
        grey = Image.new("L", (16, 12))
        grey.paste(255, (8, 0, 16, 12))
        deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        grey = deep if mode == "I;16" else grey.convert(mode)
        grey.save(tmp_path / "masks" / name)
    for picture in masked_pictures(tmp_path, mask_dir=str(tmp_path / "masks")):
        assert picture.mask.parent.name == "masks" and picture.mask.stem == picture.path.stem
        mask = np.asarray(picture_files.open_mask(picture))
        assert mask.shape == (12, 16) and mask[:, :8].max() == 0 and mask[:, 8:].min() == 255


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path: None, "1.jpg has no mask there, as 1.png"),
        (lambda path: path.write_bytes(b"no picture"), "1.png: it can't be read as a mask"),
        (lambda path: Image.new("L", (9, 6), 255).save(path), "1.png: it has 9 x 6 pixels, another shape"),
        (lambda path: Image.new("L", (8, 6), 0).save(path), "1.png: it is black, so no place of its picture counts"),
    ],
)
def test_a_mask_that_is_none_is_named(tmp_path, make, said):
    (tmp_path / "masks").mkdir()
    make(tmp_path / "masks/1.png")
    with pytest.raises(BadInput, match=said):
        masked_pictures(tmp_path, mask_dir=str(tmp_path / "masks"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (200, 120), (121, 999)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_only_looked_through_has_the_size_that_it_is_read_with(tmp_path, orientation, size, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "1.jpg"
    Image.effect_noise(size, 50).convert(mode).save(path, exif=exif, progressive=orientation == 3)
    [picture] = find(tmp_path)[0]
    assert picture.size == picture_files.open_picture(path).size[::-1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 20])
    with pytest.raises(BadInput, match="1.jpg claims to be a picture and can't be read"):
        find(tmp_path)
