"""Drawing: a picture is a function of its seed, its number and the settings, whatever is drawn beside it."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.data import randomness
from dreambooth.models import schedulers
from dreambooth.system import machine, processes
from dreambooth.system.devices import cards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from PIL.Image import Image

    from dreambooth.config.commands import DrawSettings
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array, Pipeline

    Request = tuple[str, int]  # (prompt, number of the picture)


def requests_for(prompts: Iterable[str], count: int) -> list[Request]:
    """List the requests for `count` pictures of each prompt."""
    return [(prompt, number) for prompt in prompts for number in range(count)]


def draw(family: Family, settings: DrawSettings, requests: Sequence[Request]) -> Iterator[Image]:
    """Check the settings, and return an iterator that draws a picture for each request, in order."""
    family.check_drawing(settings)
    return _draw(family.whole(settings.scheduler), settings, requests)


def _draw(family: Family, settings: DrawSettings, requests: Sequence[Request]) -> Iterator[Image]:
    import paddle

    from dreambooth.drawing import rows

    stochastic = family.facts.stochastic or schedulers.is_stochastic(family.pipeline.scheduler)
    half = cards.half(settings.precision)
    is_small = machine.is_small(family.denoiser.parameters())
    encoded = _EncodedPrompts(family, settings)
    if not is_small:
        getattr(family.pipeline, family.facts.decoder).enable_slicing()  # a batch's pictures one by one

    def run(pipeline: Pipeline, steps: int, batch: Sequence[Request], **more: Any) -> Any:  # noqa: ANN401
        prompts, numbers = zip(*batch)
        keys = [(number,) for number in numbers]
        if stochastic:
            paddle.seed(int(randomness.integers(settings.seed, f"{settings.purpose} steps", keys, 2**31)[0]))
        with cards.computing_in(half), rows.in_threads(family.denoiser, 1 if is_small else family.split.threads):
            return pipeline(
                **encoded.take(prompts),
                height=settings.size[0],
                width=settings.size[1],
                num_inference_steps=steps,
                guidance_scale=settings.guidance,
                **family.first_latents(settings.seed, settings.purpose, keys, settings.size),
                **more,
            ).images

    def is_exact_in(batches: Sequence[Sequence[Request]]) -> bool:
        """Check whether the model predicts the same bits for pictures in such batches as for each alone."""
        pipeline = family.whole("ddim").pipeline  # which can draw in a single step; a flow's own can too

        def predict(batch: Sequence[Request]) -> Array:
            return run(pipeline, 1, batch, output_type="latent").numpy()

        sizes = {len(batch) for batch in batches}
        alone = [predict([request]) for request in requests[: max(sizes)]]
        return all(np.array_equal(predict(requests[:size]), np.concatenate(alone[:size])) for size in sizes)

    if family.split.workers > 1:
        encoded.encode(prompt for prompt, _ in requests)  # once for all workers
    # Paddle has one generator; alone, a picture can have it to itself
    batches = _split(requests, 1 if stochastic else settings.batch_size, family.split.workers)
    # On the CPU, a batch saves time with a small network alone. Its size may change how the sums of a matrix product
    # are split, as it does with AVX2: some pixels would differ by one level
    if not processes.is_on_gpu() and len(batches) < len(requests) and not (is_small and is_exact_in(batches)):
        batches = _split(requests, 1, family.split.workers)
    draw_batch = functools.partial(run, family.pipeline, settings.steps)
    for pictures in machine.shared(draw_batch, batches, family.split.workers):
        yield from pictures


def _split(requests: Sequence[Request], most: int, workers: int) -> list[Sequence[Request]]:
    """Split requests into batches of at most so many, of about equal size, and as many for each worker."""
    count = min(len(requests), workers * math.ceil(len(requests) / (workers * most)))
    limits = [len(requests) * number // count for number in range(count + 1)] if count else []
    return [requests[first:end] for first, end in itertools.pairwise(limits)]


class _EncodedPrompts:
    """Prompts as arguments of the pipeline, each encoded once, however many pictures it gets."""

    def __init__(self, family: Family, settings: DrawSettings) -> None:
        self._family, self._negative = family, settings.negative_prompt or None
        self._guided = settings.guidance > 1
        self._arguments: dict[str, dict[str, Any]] = {}

    def encode(self, prompts: Iterable[str]) -> None:
        """Encode those that are new."""
        for prompt in set(prompts) - self._arguments.keys():
            self._arguments[prompt] = self._family.prompt_arguments([prompt], self._negative, self._guided)

    def take(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Put together the arguments for some prompts, a row or an item for each."""
        self.encode(prompts)
        rows = [self._arguments[prompt] for prompt in prompts]
        return {name: _join([row[name] for row in rows]) for name in rows[0]}


def _join(values: Sequence[Any]) -> Any:  # noqa: ANN401  lists or tensors
    import paddle

    return sum(values, []) if isinstance(values[0], list) else paddle.concat(values)
