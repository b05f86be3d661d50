"""Tiny pictures for the tests."""

from PIL import Image, ImageDraw


def write_left_masks(pictures, folder, size=(40, 40)):
    """A mask for each picture, white on its left half."""
    folder.mkdir()
    for path in pictures.glob("*.*"):
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        mask.save(folder / f"{path.stem}.png")
    return folder


def draw_pictures(folder, count, size=(40, 40), first=0):
    """Pictures that differ from each other and are not symmetric, numbered from the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image = Image.new("RGB", size, (30 * number % 256, 100, 200))
        ImageDraw.Draw(image).ellipse((4 + number, 6, 28, 30), fill=(200, 40, 30 * number % 256))
        image.save(folder / f"{number}.png")
    return folder
