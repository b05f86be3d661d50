"""The networks' training data: pictures of the world, strangers among them, and captions as tokens."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageFilter

from dreambooth.data import randomness
from dreambooth.files import atomic
from dreambooth.system import console
from miniworld import networks, world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from paddle import Tensor
    from PIL import Image

    from dreambooth.system.types import Array, Tokenizer
    from miniworld.things import Look

SEED = 0
PICTURES = 60_000
CAPTIONS = 20_000  # for the tokenizer


def draw_pictures(work: Path) -> None:
    """Draw the world's pictures into one file: uint8 [count, 64, 64, 3]."""
    draw_into(work / "pictures.npy", PICTURES, networks.SIZE)


def draw_into(path: Path, count: int, side: int) -> None:
    """Draw the world's first pictures into one file: uint8 [count, side, side, 3]."""
    shape = (count, side, side, 3)
    with atomic.whole_file(path, size=math.prod(shape)) as temporary:
        drawn = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)  # type: ignore[no-untyped-call]
        for number in console.progress_bar(range(count), desc=path.stem.replace("-", " ")):
            drawn[number] = np.asarray(world.picture(*world.thing(SEED, number), SEED, number, side))
        drawn.flush()


def read_pictures(work: Path) -> Array:
    """Open the file of the world's pictures, without reading it into memory."""
    return np.load(work / "pictures.npy", mmap_mode="r")


def mixed_things(
    drawn: Array, purpose: str, numbers: Iterable[int], strangers: float
) -> Iterator[tuple[Array, Look, str]]:
    """Yield picture, look and scene for each number: of the world, or of a stranger for a share of the numbers."""
    for number in numbers:
        if randomness.stream(SEED, f"{purpose} stranger", number).random() < strangers:
            look, scene = world.stranger(SEED, number)
            yield np.asarray(world.picture(look, scene, SEED + 1, number)), look, scene
        else:
            index = randomness.pick(SEED, purpose, len(drawn), number)
            yield drawn[index], *world.thing(SEED, index)


def caption(index: int, number: int) -> str:
    """Write a denoiser's caption of picture `index`; one in ten is empty, for classifier-free guidance."""
    is_empty = randomness.stream(SEED, "left out", number).random() < 0.1
    return "" if is_empty else world.caption(*world.thing(SEED, index), SEED + 2, number)


def blur(picture: Image.Image, number: int) -> Image.Image:
    """Blur half of the pictures a little, as the VAE does."""
    radius = randomness.stream(SEED, "blur", number).uniform(-1, 1)
    return picture.filter(ImageFilter.GaussianBlur(radius)) if radius > 0 else picture


def read_tokenizer(work: Path) -> Tokenizer:
    """Read the tokenizer of an earlier stage."""
    from ppdiffusers.transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(work / "tokenizer"))


def token_ids(tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """Return the captions' tokens [n, 32]."""
    settings = dict(padding="max_length", max_length=networks.TOKENS, truncation=True, return_tensors="pd")
    return tokenizer(captions, **settings).input_ids


def caption_encoder(work: Path) -> Callable[[Sequence[str]], Tensor]:
    """Return a function from captions to the text encoder's output [n, 32, 128]; it encodes each caption once."""
    import paddle
    from ppdiffusers.transformers import CLIPTextModel

    tokenizer = read_tokenizer(work)
    tower = CLIPTextModel.from_pretrained(str(work / "clip"))
    tower.eval()

    @functools.cache
    def encode(caption: str) -> Tensor:
        with paddle.no_grad():
            return tower(token_ids(tokenizer, [caption]))[0]

    return lambda captions: paddle.concat([encode(caption) for caption in captions])
