"""Drawing: a picture is a function of its seed, its number and the settings, whatever is drawn beside it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.data import randomness
from dreambooth.drawing.inputs import painting
from dreambooth.models import schedulers
from dreambooth.system import machine, processes
from dreambooth.system.devices import cards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from PIL.Image import Image

    from dreambooth.config.commands import DrawSettings
    from dreambooth.drawing.inputs.starts import Start
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array, Size, Tensors

    Request = tuple[str, int]  # (prompt, number of the picture)


def requests_for(prompts: Iterable[str], count: int) -> list[Request]:
    """List the requests for `count` pictures of each prompt."""
    return [(prompt, number) for prompt in prompts for number in range(count)]


def draw(
    family: Family, settings: DrawSettings, requests: Sequence[Request], start: Start | None = None
) -> Iterator[Image]:
    """Check the settings, and return an iterator that draws a picture for each request, in order.

    It begins from noise, or from a picture whose size is that of the drawing.
    """
    settings = dataclasses.replace(settings, from_picture=start is not None)
    family.check_drawing(settings)
    return _draw(family.whole(settings.scheduler), settings, requests, start)


class _FromNoise:
    """Draws with the library's pipeline."""

    def __init__(self, family: Family, size: Size) -> None:
        self._family, self._size = family, size

    def encode(self, prompts: Sequence[str], negative: str | None, guided: bool) -> Mapping[str, Any]:
        """Encode prompts; each value has a row or an item for each."""
        return self._family.prompt_arguments(prompts, negative, guided)

    def draw(
        self, prompts: Mapping[str, Any], noise: Tensors, steps: int, guidance: float, as_latents: bool = False
    ) -> Any:  # noqa: ANN401
        """Draw a picture for each row: pictures, or their latents."""
        import paddle

        # what the library decodes, it decodes in half precision if the rest is; its UniDiffuser decodes all
        stays_latent = self._family.facts.has_places
        drawn = self._family.pipeline(
            **prompts,
            height=self._size[0],
            width=self._size[1],
            num_inference_steps=steps,
            guidance_scale=guidance,
            **noise,
            **({"output_type": "latent"} if stays_latent else {}),
        ).images
        if as_latents or not stays_latent:
            return drawn
        with paddle.no_grad():
            return painting.decode(self._family, drawn)


def _draw(family: Family, settings: DrawSettings, requests: Sequence[Request], start: Start | None) -> Iterator[Image]:
    import paddle

    from dreambooth.drawing import rows

    stochastic = family.facts.stochastic or schedulers.is_stochastic(family.pipeline.scheduler)
    half = cards.half(settings.precision)
    is_small = machine.is_small(family.denoiser.parameters())
    if not is_small and family.decoder:
        family.decoder.enable_slicing()  # a batch's pictures one by one

    def drawer_of(family: Family) -> painting.Painter | _FromNoise:
        if start is None and family.decoder:
            return _FromNoise(family, settings.size)
        return painting.Painter(family, settings.size, start)

    drawer = drawer_of(family)
    encoded = _EncodedPrompts(drawer, settings)

    def run(drawer: painting.Painter | _FromNoise, steps: int, batch: Sequence[Request], **more: bool) -> Any:  # noqa: ANN401
        prompts, numbers = zip(*batch)
        keys = [(number,) for number in numbers]
        if stochastic:
            paddle.seed(int(randomness.integers(settings.seed, f"{settings.purpose} steps", keys, 2**31)[0]))
        with rows.in_threads(family.denoiser, 1 if is_small else family.split.threads):
            noise = family.first_latents(settings.seed, settings.purpose, keys, settings.size)
            with cards.computing_in(half):
                return drawer.draw(encoded.take(prompts), noise, steps, settings.guidance, **more)

    def is_exact_in(batches: Sequence[Sequence[Request]]) -> bool:
        """Check whether the model predicts the same bits for pictures in such batches as for each alone."""
        drawer = drawer_of(family.whole("ddim"))  # which can draw in a single step; a flow's own can too

        def predict(batch: Sequence[Request]) -> Array:
            return run(drawer, 1, batch, as_latents=True).numpy()

        sizes = {len(batch) for batch in batches}
        alone = [predict([request]) for request in requests[: max(sizes)]]
        return all(np.array_equal(predict(requests[:size]), np.concatenate(alone[:size])) for size in sizes)

    if family.split.workers > 1:
        encoded.encode(prompt for prompt, _ in requests)  # once for all workers
    # Paddle has one generator; alone, a picture can have it to itself. And the library's threshold takes one at a time
    one_by_one = stochastic or family.pipeline.scheduler.config.get("thresholding")
    batches = _split(requests, 1 if one_by_one else settings.batch_size, family.split.workers)
    # On the CPU, a batch saves time with a small network alone. Its size may change how the sums of a matrix product
    # are split, as it does with AVX2: some pixels would differ by one level
    if not processes.is_on_gpu() and len(batches) < len(requests) and not (is_small and is_exact_in(batches)):
        batches = _split(requests, 1, family.split.workers)
    draw_batch = functools.partial(run, drawer, settings.steps)
    for pictures in machine.shared(draw_batch, batches, family.split.workers):
        yield from pictures


def _split(requests: Sequence[Request], most: int, workers: int) -> list[Sequence[Request]]:
    """Split requests into batches of at most so many, of about equal size, and as many for each worker."""
    count = min(len(requests), workers * math.ceil(len(requests) / (workers * most)))
    limits = [len(requests) * number // count for number in range(count + 1)] if count else []
    return [requests[first:end] for first, end in itertools.pairwise(limits)]


class _EncodedPrompts:
    """Prompts as arguments of the pipeline, each encoded once, however many pictures it gets."""

    def __init__(self, drawer: painting.Painter | _FromNoise, settings: DrawSettings) -> None:
        self._drawer, self._negative = drawer, settings.negative_prompt or None
        self._guided = settings.guidance > 1
        self._arguments: dict[str, Mapping[str, Any]] = {}

    def encode(self, prompts: Iterable[str]) -> None:
        """Encode those that are new."""
        for prompt in set(prompts) - self._arguments.keys():
            self._arguments[prompt] = self._drawer.encode([prompt], self._negative, self._guided)

    def take(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Put together the arguments for some prompts, a row or an item for each."""
        self.encode(prompts)
        rows = [self._arguments[prompt] for prompt in prompts]
        return {name: _join([row[name] for row in rows]) for name in rows[0]}


def _join(values: Sequence[Any]) -> Any:  # noqa: ANN401  lists or tensors
    import paddle

    return sum(values, []) if isinstance(values[0], list) else paddle.concat(values)
