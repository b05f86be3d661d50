"""Drawing from a picture: all of it anew, as far as a strength says, or a region of it.

The noise is added to the picture's latents, and the model takes it away again from there on, as Meng et al. 2022
("SDEdit", arXiv 2108.01073) do. A model that sees the region paints in it. With another one, what lies outside is put
back into the latents after every step, with as much noise (Lugmayr et al. 2022, "RePaint", arXiv 2201.09865, without
its repetitions).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.data.concepts import View
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor
    from PIL import Image

    from dreambooth.drawing.inputs.starts import Start
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Size, Tensors

_NEGATIVE = "negative "  # begins the names of the negative prompts' encodings


def check(family: Family, start: Start, steps: int, flag: str = "--image") -> None:
    """Refuse a model that draws from no picture, and a strength that leaves no step."""
    if not family.facts.has_places:
        raise BadInput(f"{flag}: a model of {family.facts.pipeline} draws from no picture here; leave it out")
    if family.facts.enlarges and (start.mask or start.strength < 1):
        raise BadInput(f"--{'mask' if start.mask else 'strength'}: a model that enlarges draws all anew; leave it out")
    if _steps_drawn(family, start, steps) < 1:
        reason = f"of {steps} steps that is less than one; give more of either"
        raise BadInput(f"--strength {start.strength}: {reason} (--num_inference_steps)")


def _steps_drawn(family: Family, start: Start, steps: int) -> int:
    """Return how many of the steps a strength draws; of a flow, the libraries round it up."""
    return math.ceil(steps * start.strength) if family.facts.flows else int(steps * start.strength)


def size_of_start(family: Family, size: Size) -> Size:
    """Return the size that a picture to begin from needs, for a drawing of a size."""
    return size[0] // family.enlargement, size[1] // family.enlargement


class Painter:
    """Draws by the family's predictions: from a picture, or from noise where the library can't be given it."""

    def __init__(self, family: Family, size: Size, start: Start | None = None) -> None:
        self._family, self._start, self._size = family, start, size
        self._encoding: Tensors = {}
        self._clean: Tensor | None = None  # the latents of the picture
        self._region: Tensor | None = None  # where it paints, among them; a place is painted where any of its pixels is
        if start is not None:
            self._begin_from(start)

    def _begin_from(self, start: Start) -> None:
        import paddle

        family = self._family
        pixels = np.asarray(start.picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        if family.facts.enlarges:
            self._encoding = {"small": paddle.to_tensor(pixels).astype(family.denoiser.dtype)}
            return
        with paddle.no_grad():
            levels = None if start.mask is None else np.asarray(start.mask, np.float32)[None, None] / 255
            mask = None if levels is None else paddle.to_tensor(levels)
            kind = family.space.exact_type(family.decoder) or family.denoiser.dtype
            encoding = family.encode_pictures(paddle.to_tensor(pixels).astype(kind), mask)
            self._encoding = {name: each.astype(family.denoiser.dtype) for name, each in encoding.items()}
            self._clean = family.latents(self._encoding, paddle.zeros_like(self._encoding["mean"]))
        if mask is not None and not family.facts.paints:
            inside = paddle.nn.functional.adaptive_max_pool2d((mask >= 0.5).astype("float32"), self._clean.shape[2:])
            self._region = inside.astype(self._clean.dtype)

    def encode(self, prompts: Sequence[str], negative: str | None, guided: bool) -> Tensors:
        """Encode prompts, with those to keep away from beside them if guided."""
        import paddle

        with paddle.no_grad():
            found = self._family.encode_prompts(prompts)
            others = self._family.encode_prompts([negative or ""] * len(prompts)) if guided else {}
        return {**found, **{_NEGATIVE + name: each for name, each in others.items()}}

    def draw(self, prompts: Tensors, noise: Tensors, steps: int, guidance: float, as_latents: bool = False) -> Any:  # noqa: ANN401
        """Draw a picture for each row: pictures, or their latents."""
        import paddle

        with paddle.no_grad():
            latents = self._denoise(self._conditioning(prompts, noise), noise["latents"], steps, guidance)
            return latents if as_latents else self._decode(latents)

    def _denoise(self, conditioning: Tensors, noise: Tensor, steps: int, guidance: float) -> Tensor:
        import paddle

        scheduler = self._family.pipeline.scheduler
        scheduler.set_timesteps(steps)
        drawn = _steps_drawn(self._family, self._start, steps) if self._start else steps
        first = (steps - max(1, drawn)) * scheduler.order
        is_whole = self._start is None or self._start.strength == 1
        # that of a flow has no scale of its noise
        latents = noise * getattr(scheduler, "init_noise_sigma", 1.0) if is_whole else self._noised(noise, first)
        for number in range(first, len(scheduler.timesteps)):
            t = scheduler.timesteps[number]
            seen = paddle.concat([latents] * 2) if guidance > 1 else latents
            if hasattr(scheduler, "scale_model_input"):
                seen = scheduler.scale_model_input(seen, t)
            predicted = self._family.predict(seen, t.expand([len(seen)]), conditioning)
            if guidance > 1:
                other, wanted = predicted.chunk(2)
                predicted = other + guidance * (wanted - other)
            # the linear multistep solver counts on the predictions before the first, which there are none of
            more = {"order": min(4, number - first + 1)} if hasattr(scheduler, "derivatives") else {}
            latents = scheduler.step(predicted, t, latents, return_dict=False, **more)[0]
            if self._region is not None:
                is_last = number + 1 == len(scheduler.timesteps)
                outside = self._clean if is_last else self._noised(noise, number + 1)
                latents = self._region * latents + (1 - self._region) * outside
        return latents

    def _conditioning(self, prompts: Tensors, noise: Tensors) -> Tensors:
        """Put together what the denoiser takes of the rows, after those of the negative prompts if there are any."""
        import paddle

        rows = len(noise["latents"])
        negative = {name.removeprefix(_NEGATIVE): each for name, each in prompts.items() if name.startswith(_NEGATIVE)}
        own = {name: each for name, each in prompts.items() if not name.startswith(_NEGATIVE)}
        both = {name: paddle.concat([negative[name], each]) if negative else each for name, each in own.items()}
        times = 2 if negative else 1
        encoding = {name: each.expand([times * rows, *each.shape[1:]]) for name, each in self._encoding.items()}
        if "augmentation" in noise:
            encoding["augmentation"] = paddle.concat([noise["augmentation"]] * times)
        return self._family.conditioning(both, encoding, [View(self._size, self._size)] * (times * rows))

    def _noised(self, noise: Tensor, number: int) -> Tensor:
        """Add the noise of a step to the picture's latents."""
        assert self._clean is not None  # no upscaler has them, and it begins from noise
        scheduler = self._family.pipeline.scheduler
        clean = self._clean.expand([len(noise), *self._clean.shape[1:]])
        t = scheduler.timesteps[number]
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # its timesteps may be rounded, and then repeat
            kept, added = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[number])  # noqa: SLF001
            return (kept * clean + added * noise).astype(noise.dtype)
        if self._family.facts.flows:
            share = t.astype("float32") / scheduler.config.num_train_timesteps
            return (share * noise + (1 - share) * clean).astype(noise.dtype)
        return scheduler.add_noise(clean, noise, t.expand([len(clean)]))

    def _decode(self, latents: Tensor) -> list[Image.Image]:
        pictures = decode(self._family, latents)
        return [self._start.kept(each) for each in pictures] if self._start else pictures


def decode(family: Family, latents: Tensor) -> list[Image.Image]:
    """Make pictures of latents [n, …], in float32 where half precision would overflow."""
    pixels = family.space.decode(family.decoder, latents)
    shares = (pixels / 2 + 0.5).clip(0, 1).transpose([0, 2, 3, 1]).numpy()
    pictures: list[Image.Image] = family.pipeline.numpy_to_pil(shares)
    return pictures
