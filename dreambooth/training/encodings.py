"""Pictures and prompts as tensors: encoded once, so that a step needs no encoder, or in each step."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from dreambooth.data import picture_files, randomness, transforms
from dreambooth.system import console, processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from paddle import Tensor

    from dreambooth.config.run_sections import MemorySettings
    from dreambooth.data.batches import Batches
    from dreambooth.data.concepts import Example, MicroBatch, Picture, View
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array, Arrays, Size, Tensors


# prompts that are encoded together; more of them are encoded one by one, so that an encoding depends on its own alone
_FEW_PROMPTS = 2
_PROMPTS_IN_MEMORY = 64  # of Stable Diffusion 1, each takes 240 KB
_CHUNK = 64  # prompts of a process between two exchanges


class Encodings:
    """The encodings of a run's pictures and prompts.

    Pictures are encoded once, unless --no_cache_latents; prompts too, unless the text encoder or a word trains.
    """

    def __init__(
        self, family: Family, batches: Batches, settings: MemorySettings, seed: int, keeps_base: bool = False
    ) -> None:
        self._family, self._batches, self._seed = family, batches, seed
        self._workers = settings.dataloader_num_workers
        self._weights = self._weigh_places() if batches.has_masks else {}
        self._arrays: dict[Size, Arrays] | None = None  # of each size: {name: [row, …]}
        self.are_kept = settings.cache_latents and not family.facts.paints  # whose region is another in each step
        self._first_rows: dict[tuple[Size, int], int] = {}  # of a picture's views at a size, which follow each other
        if self.are_kept:
            self._arrays = {size: self._encode_all_pictures(size) for size in batches.sizes}
        self._last: tuple[MicroBatch, Tensors] | None = None  # the last micro-batch and its pictures' encodings
        self._prompts: Tensors | _Spool | None = None  # {name: [prompt, …]}
        self._base_prompts: Tensors | _Spool | None = None  # by the text encoder before it trains
        if not family.changes_prompts:
            self._prompts = self._base_prompts = self._encode_all_prompts(batches.prompts)
        elif keeps_base:
            self._base_prompts = self._encode_all_prompts(batches.prompts)

    def latents(self, batch: MicroBatch) -> Tensor:
        """Draw clean latents [n, …] from the encodings of a micro-batch's pictures, anew for each key."""
        encoding = self._encoding(batch)
        spread = randomness.normal(self._seed, "latent", batch.keys, tuple(encoding["mean"].shape[1:]))
        return self._family.latents(encoding, paddle.to_tensor(spread))

    def conditioning(self, batch: MicroBatch, of_base: bool = False) -> Tensors:
        """Return the examples' conditioning, [n, …] each; a prompt that several of them share is encoded once.

        `of_base` is whether the text encoder is to be that before the training.
        """
        rows_of = {prompt: row for row, prompt in enumerate(batch.prompts)}
        source = self._base_prompts if of_base else self._prompts
        if source is None:
            prompts = self._batches.prompts
            encoded = self._family.encode_prompts([prompts[prompt] for prompt in batch.prompts])
        elif isinstance(source, _Spool):
            arrays = source.take(batch.prompts)
            encoded = {name: paddle.to_tensor(array) for name, array in arrays.items()}
        else:
            rows_of, encoded = {prompt: prompt for prompt in batch.prompts}, source
        rows = paddle.to_tensor([rows_of[example.prompt] for example in batch.examples])
        of_examples = {name: paddle.index_select(tensor, rows, axis=0) for name, tensor in encoded.items()}
        views = [example.view for example in batch.examples]
        return self._family.conditioning(of_examples, self._encoding(batch), views)

    def masks(self, batch: MicroBatch) -> Tensor | None:
        """Return the weight [n, 1, height, width] of each place in the examples' errors; None: all places count."""
        if not self._weights:
            return None
        rows = [self._weights[self._mask_and_view(example.picture, example.view)] for example in batch.examples]
        return paddle.to_tensor(np.stack(rows).astype(np.float32))

    def _mask_and_view(self, number: int, view: View) -> tuple[int | None, View]:
        """Return what the weights of a picture's places depend on; all pictures without a mask share theirs."""
        return number if self._batches.pictures[number].mask else None, view._replace(colours=())

    def _weigh_places(self) -> dict[tuple[int | None, View], Array]:
        """Compute the weights of the latents' places: the means of those of their pixels, by mask and view."""
        factor = self._family.space.factor
        found: dict[tuple[int | None, View], Array] = {}
        for number, (picture, views) in enumerate(zip(self._batches.pictures, self._batches.views)):
            for view in views:
                key = self._mask_and_view(number, view)
                if key in found:
                    continue
                mask = picture_files.open_mask(picture)
                weights = transforms.to_weights(mask, view, self._batches.unmasked_weight)
                of_places = weights.reshape(1, view.size[0] // factor, factor, view.size[1] // factor, factor)
                found[key] = of_places.mean(axis=(2, 4), dtype=np.float64).astype(np.float16)
        return found

    def _encoding(self, batch: MicroBatch) -> Tensors:
        """Return the encodings of a micro-batch's pictures: the same for its latents and for its conditioning."""
        if self._last is None or self._last[0] is not batch:
            encode = self._encode_pictures if self._arrays is None else self._take_pictures
            self._last = batch, self._augmented(batch, encode(batch))
        return self._last[1]

    def _augmented(self, batch: MicroBatch, encoding: Tensors) -> Tensors:
        """Add the noise of the small pictures, where the model sees such: another for each key."""
        if not self._family.facts.enlarges:
            return encoding
        noise = randomness.normal(self._seed, "augmentation", batch.keys, (3, *encoding["mean"].shape[2:]))
        return {**encoding, "augmentation": paddle.to_tensor(noise)}

    @paddle.no_grad()
    def _encode_pictures(self, batch: MicroBatch) -> Tensors:
        shown = [(self._batches.pictures[example.picture], [example.view]) for example in batch.examples]
        pixels = [each for [each] in read_pixels(shown, self._workers)]
        stacked = paddle.to_tensor(np.stack(pixels))
        if self._family.facts.paints:
            return self._family.encode_pictures(stacked, self._regions(batch))
        return self._family.encode_pictures(stacked)

    def _regions(self, batch: MicroBatch) -> Tensor:
        """Return the region [n, 1, height, width] that each example paints: its mask, or one that its key draws."""
        found = []
        for example in batch.examples:
            if mask := picture_files.open_mask(self._batches.pictures[example.picture]):
                found.append(transforms.to_weights(mask, example.view, 0.0))
            else:
                numbers = randomness.stream(self._seed, "region", *example.key)
                found.append(transforms.region(example.view.size, numbers))
        return paddle.to_tensor(np.stack(found).astype(np.float32))

    def _take_pictures(self, batch: MicroBatch) -> Tensors:
        assert self._arrays is not None
        rows = [self._row(example) for example in batch.examples]
        return {name: paddle.to_tensor(array[rows]) for name, array in self._arrays[batch.size].items()}

    def _row(self, example: Example) -> int:
        """Return the row of an example's picture among those of its size."""
        views = self._batches.views_at(example.picture, example.view.size)
        return self._first_rows[example.view.size, example.picture] + views.index(example.view)

    @paddle.no_grad()
    def _encode_all_pictures(self, size: Size) -> Arrays:
        """Encode all views of all pictures at a size, each process its share.

        Pictures go through the encoder one by one, so that an encoding does not depend on the batch it was in.
        """
        shown: list[tuple[int, View]] = []
        for number in range(len(self._batches.pictures)):
            self._first_rows[size, number] = len(shown)
            shown += [(number, view) for view in self._batches.views_at(number, size)]
        mine = [shown[row] for row in processes.share(len(shown)) or [0]]
        # a picture is read once for those of its views that this process encodes
        read = [
            (self._batches.pictures[number], [view for _, view in several])
            for number, several in itertools.groupby(mine, lambda each: each[0])
        ]
        rows = []
        for pixels in console.progress_bar(read_pixels(read, self._workers), total=len(read), desc="Encoding"):
            encoded = [self._family.encode_pictures(paddle.to_tensor(each[None])) for each in pixels]
            rows += [{name: tensor[0].numpy() for name, tensor in each.items()} for each in encoded]
        return processes.gather_rows(_stack(rows), len(shown))

    @paddle.no_grad()
    def _encode_all_prompts(self, prompts: Sequence[str]) -> Tensors | _Spool:
        """Encode the prompts: a few together, more of them one by one, each process its share."""
        if len(prompts) <= _FEW_PROMPTS:
            return self._family.encode_prompts(prompts)
        spool = _Spool() if len(prompts) > _PROMPTS_IN_MEMORY else None
        parts = []
        step = _CHUNK * processes.world_size()
        bar = console.progress_bar(total=len(prompts), desc="Encoding prompts")
        with bar:
            for first in range(0, len(prompts), step):
                chunk = prompts[first : first + step]
                mine = [self._family.encode_prompts([chunk[index]]) for index in processes.share(len(chunk)) or [0]]
                rows = _stack([{name: tensor[0].numpy() for name, tensor in each.items()} for each in mine])
                joined = processes.gather_rows(rows, len(chunk))
                spool.append(joined) if spool else parts.append(joined)
                bar.update(len(chunk))
        if spool:
            return spool
        return {name: paddle.to_tensor(np.concatenate([part[name] for part in parts])) for name in parts[0]}


class _Spool:
    """Rows of arrays in a temporary file without a name: many captions' encodings would fill the memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  as long as the run
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}  # of a row of each array
        self._size = 0  # bytes of a row of all

    def append(self, arrays: Arrays) -> None:
        """Add rows, [n, …] each."""
        self._kinds = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        for row in zip(*arrays.values()):
            for array in row:
                self._file.write(np.ascontiguousarray(array).tobytes())
        self._size = sum(array[0].nbytes for array in arrays.values())
        self._file.flush()

    def take(self, rows: Sequence[int]) -> Arrays:
        """Read rows, [n, …] each; workers that share the file may read at the same time."""
        taken: dict[str, list[Array]] = {name: [] for name in self._kinds}
        for row in rows:
            start = row * self._size
            for name, (kind, shape) in self._kinds.items():
                count = int(np.prod(shape)) * kind.itemsize
                taken[name].append(np.frombuffer(self._read(count, start), kind).reshape(shape))
                start += count
        return {name: np.stack(arrays) for name, arrays in taken.items()}

    def _read(self, count: int, start: int) -> bytes:
        if hasattr(os, "pread"):  # without a position that the workers would share
            return os.pread(self._file.fileno(), count, start)
        self._file.seek(start)
        return self._file.read(count)


def read_pixels(shown: Sequence[tuple[Picture, Sequence[View]]], workers: int) -> Iterator[list[Array]]:
    """Yield the pixels of each picture's views, in order, read ahead by some threads."""

    def read(each: tuple[Picture, Sequence[View]]) -> list[Array]:
        picture, views = each
        image = picture_files.open_picture(picture.path)
        return [transforms.to_pixels(image, view) for view in views]

    if not workers:
        yield from map(read, shown)
        return
    with ThreadPoolExecutor(workers) as threads:
        ahead: deque[Future[list[Array]]] = deque()
        for each in shown:
            ahead.append(threads.submit(read, each))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _stack(rows: Sequence[Arrays]) -> dict[str, Array]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
