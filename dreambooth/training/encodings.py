"""Encode pictures and prompts once, so that a training step needs no VAE and, where it does not learn, no text
encoder."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle

from dreambooth.data import picture_files, transforms
from dreambooth.system import console, processes


def pixels_of(pictures, config):
    """Yield the pixels of pictures in order, read ahead by --dataloader_num_workers threads."""

    def read(picture):
        return transforms.to_pixels(
            picture_files.open_picture(picture.path), *config.pictures.size, config.pictures.center_crop
        )

    if not config.memory.dataloader_num_workers:
        yield from map(read, pictures)
        return
    with ThreadPoolExecutor(config.memory.dataloader_num_workers) as threads:
        ahead = deque()
        for picture in pictures:
            ahead.append(threads.submit(read, picture))
            if len(ahead) > 2 * config.memory.dataloader_num_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class EncodedOnce:
    """The encodings of all pictures, in memory: {name: array [picture, version, …]}, version 1 being the mirrored one.

    Each process encodes its share. Pictures go through the VAE one by one, so that the encoding of a picture does not
    depend on the batch it was in.
    """

    def __init__(self, family, examples):
        config = examples.config
        count = len(examples.pictures)
        mine = list(processes.share(count)) or [0]
        pixels = pixels_of([examples.pictures[index] for index in mine], config)
        bar = console.progress_bar(pixels, total=len(mine), desc="Encoding")
        self.arrays = processes.gather_rows(
            stack([self.versions(family, each, config.pictures.random_flip) for each in bar]), count
        )

    @staticmethod
    @paddle.no_grad()
    def versions(family, pixels, random_flip):
        sides = [pixels, pixels[:, :, ::-1]] if random_flip else [pixels]
        encoded = [family.encode_pictures(paddle.to_tensor(np.ascontiguousarray(side[None]))) for side in sides]
        return stack([{name: tensor[0].numpy() for name, tensor in each.items()} for each in encoded])

    def take(self, batch):
        """The encodings of a micro-batch."""
        rows = (batch.pictures, batch.flips)
        return {name: paddle.to_tensor(array[rows]) for name, array in self.arrays.items()}


class EncodedEachStep:
    """Without the cache: the VAE stays, and the pictures of a micro-batch are read and encoded when it comes."""

    def __init__(self, family, examples):
        self.family, self.examples = family, examples

    @paddle.no_grad()
    def take(self, batch):
        config = self.examples.config
        pixels = list(pixels_of([self.examples.pictures[index] for index in batch.pictures], config))
        sides = [each[:, :, ::-1] if flip else each for each, flip in zip(pixels, batch.flips)]
        return self.family.encode_pictures(paddle.to_tensor(np.stack(sides)))


class Prompts:
    """The embeddings of the run's prompts: computed once, or in every step where the text encoder learns."""

    def __init__(self, family, examples):
        self.family, self.prompts = family, examples.prompts
        self.fixed = None
        if not family.train_text_encoder:
            with paddle.no_grad():
                self.fixed = family.encode_prompts(self.prompts)

    def take(self, batch):
        """[example, tokens, width]. A prompt that several examples share goes through the text encoder once."""
        embeddings = self.family.encode_prompts(self.prompts) if self.fixed is None else self.fixed
        return paddle.index_select(embeddings, paddle.to_tensor(batch.prompts), axis=0)


def stack(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
