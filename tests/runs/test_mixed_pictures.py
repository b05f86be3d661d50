"""Every kind of picture file goes every way: all shapes, colours and sizes, in each resize mode."""

import numpy as np
import pytest
from PIL import Image
from support.commands import train


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with a picture of each kind, some with transparency, each with a caption."""
    folder = tmp_path_factory.mktemp("mixed")
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = picture.copy()
    clear.putalpha(Image.new("L", picture.size, 128))
    picture.save(folder / "wide.png")
    picture.crop((0, 0, 30, 60)).save(folder / "tall.webp")
    picture.resize((9, 8)).save(folder / "tiny.bmp")
    picture.resize((3000, 2000)).save(folder / "large.jpg", quality=30)
    picture.save(folder / "turned.jpg", exif=turned)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("L").save(folder / "grey.jpg", progressive=True)
    picture.quantize(16).save(folder / "palette.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.save(folder / "animated.webp", save_all=True, append_images=[picture.rotate(180)])
    clear.save(folder / "clear.png")
    for path in list(folder.iterdir()):
        path.with_suffix(".txt").write_text(f"a photo of sks dog, {path.stem}")
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        dict(resize_mode="squeeze"),
        dict(resize_mode="crop", random_crop=True, random_flip=True),
        dict(resize_mode="pad", use_alpha=True),
        dict(resize_mode="buckets", random_crop=True, use_alpha=True),
        dict(resize_mode="buckets", no_cache_latents=True, color_jitter=0.2, dataloader_num_workers=2),
    ],
    ids=lambda each: " ".join(each),
)
def test_every_kind_of_picture_goes_this_way(flags, mixed, tmp_path, settings, capsys):
    sheet = tmp_path / "sheet.png"
    line = flags(instance_data_dir=mixed, resolution=64, train_batch_size=11, max_train_steps=1, **settings)
    train([*line, "--dry_run", "--sheet", str(sheet)])
    said = capsys.readouterr().out
    assert said.count("picture   ") == 11 and "picture   turned.jpg: 60 x 90" in said and sheet.is_file()
    train(line)
    assert (tmp_path / "out/model_index.json").is_file()
