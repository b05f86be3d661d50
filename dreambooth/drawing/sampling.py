"""Drawing: a picture is a function of its seed, its number and the settings, whatever is drawn beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreambooth.data import randomness
from dreambooth.models import schedulers
from dreambooth.system import machine, processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from PIL.Image import Image

    from dreambooth.config.commands import DrawSettings
    from dreambooth.models.families.base import Family

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

    stochastic = family.facts.stochastic or schedulers.is_stochastic(family.pipeline.scheduler)
    # Paddle has one generator; alone, a picture can have it to itself. And on the CPU a batch saves little, but its
    # size changes how the sums of a matrix product are split: some pixels would differ by one level.
    batch_size = 1 if stochastic or not processes.is_on_gpu() else settings.batch_size
    encoded = _EncodedPrompts(family, settings)

    def draw_batch(batch: Sequence[Request]) -> list[Image]:
        prompts, numbers = zip(*batch)
        keys = [(number,) for number in numbers]
        if stochastic:
            paddle.seed(int(randomness.integers(settings.seed, f"{settings.purpose} steps", keys, 2**31)[0]))
        drawn: list[Image] = family.pipeline(
            **encoded.take(prompts),
            height=settings.size[0],
            width=settings.size[1],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            **family.first_latents(settings.seed, settings.purpose, keys, settings.size),
        ).images
        return drawn

    if family.split.workers > 1:
        encoded.encode(prompt for prompt, _ in requests)  # once for all workers
    batches = [requests[first : first + batch_size] for first in range(0, len(requests), batch_size)]
    for pictures in machine.shared(draw_batch, batches, family.split.workers):
        yield from pictures


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
