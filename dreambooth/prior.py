"""Class pictures: what the base model drew of the class before it learned anything, drawn once and kept as files."""

import hashlib
import re
from itertools import count, islice
from pathlib import Path

from PIL import Image, PngImagePlugin
from tqdm import tqdm

from dreambooth import data, dist, sampling

STEPS = 50
GUIDANCE = 7.5
DRAWN = re.compile(r"^(\d+)-[0-9a-f]{40}\.png$")


def survey(folder):
    """(readable class pictures, complaints about the others); a folder that is not there yet holds none."""
    if not Path(folder).is_dir():
        return [], []
    pictures, broken, _ = data.survey(folder)
    return pictures, broken


def missing(pictures, wanted):
    """The numbers of the pictures to draw: the lowest that no drawn file has yet."""
    taken = {int(match[1]) for match in (DRAWN.match(picture.path.name) for picture in pictures) if match}
    return list(islice((number for number in count() if number not in taken), max(0, wanted - len(pictures))))


def drawn_otherwise(pictures, config):
    """The class pictures that say of themselves that another prompt or model drew them."""
    mine = {"prompt": config.class_prompt, "model": config.pretrained_model_name_or_path}
    odd = []
    for picture in pictures:
        if DRAWN.match(picture.path.name):
            with Image.open(picture.path) as image:
                if any(image.info.get(key, value) != value for key, value in mine.items()):
                    odd.append(picture)
    return odd


def draw_missing(family, config, numbers):
    """Draw the class pictures of these numbers into their folder, each process its share; then all wait."""
    folder = Path(config.class_data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    mine = [numbers[index] for index in dist.share(len(numbers))]
    height, width = config.size
    pictures = sampling.draw(
        family.pipeline(),
        [(config.class_prompt, number) for number in mine],
        seed=config.seed,
        purpose="class picture",
        height=height,
        width=width,
        steps=STEPS,
        guidance=GUIDANCE,
        batch_size=config.sample_batch_size,
    )
    bar = tqdm(zip(mine, pictures), total=len(mine), desc="Class pictures", disable=not dist.is_first())
    for number, picture in bar:
        save(picture, folder, number, config)
    dist.wait()


def save(picture, folder, number, config):
    """Write INDEX-SHA1.png, whole or not at all; the SHA1 is that of the pixels."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("prompt", config.class_prompt)
    info.add_itxt("model", config.pretrained_model_name_or_path)
    digest = hashlib.sha1(picture.tobytes()).hexdigest()
    unfinished = folder / f".{number}.unfinished"
    picture.save(unfinished, format="PNG", pnginfo=info)
    unfinished.rename(folder / f"{number}-{digest}.png")
