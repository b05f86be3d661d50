"""A ControlNet beside a UNet: it sees a picture, such as edges, and adds to what the UNet's blocks have found.

Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models" (arXiv 2302.05543).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import ppdiffusers
from paddle import nn

from dreambooth.files import moves, weight_files
from dreambooth.models import hub, layouts
from dreambooth.system.errors import BadInput
from dreambooth.system.patches import storage
from dreambooth.system.types import override

if TYPE_CHECKING:
    from paddle import Tensor
    from PIL.Image import Image

    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Network

_LONGEST_REASON = 200  # characters of a library's message
# settings that a ControlNet has from the UNet that it was made for
_SHARED = ("block_out_channels", "cross_attention_dim", "layers_per_block", "addition_embed_type")


class Controlled(nn.Layer):
    """A UNet with a ControlNet beside it, in the place of the UNet."""

    def __init__(self, unet: Network, control: Network, scale: float) -> None:
        super().__init__()
        self.unet, self.control, self._scale = unet, control, scale
        self._seen: Any = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return what a pipeline asks the UNet for: its settings, its kind of numbers, some of its layers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("unet"), name)

    def show(self, picture: Image) -> None:
        """Let the ControlNet see a picture, of the size that is drawn."""
        pixels = np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
        self._seen = paddle.to_tensor(pixels).astype(self.control.dtype)

    @override
    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **options: Any) -> Any:  # noqa: ANN401
        """Return what the UNet returns, with the ControlNet's share."""
        down, middle = self.control(
            sample[:, : self.control.config.in_channels],
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            controlnet_cond=self._seen.expand([len(sample), *self._seen.shape[1:]]),
            conditioning_scale=self._scale,
            added_cond_kwargs=options.get("added_cond_kwargs"),
            return_dict=False,
        )
        shares = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(sample, timestep, encoder_hidden_states, **options, **shares)


def add(family: Family, name: str, scale: float, flag: str = "--controlnet") -> Controlled:
    """Load a ControlNet, and put it beside the family's UNet."""
    facts = family.facts
    if not facts.control:
        raise BadInput(f"{flag} {name}: a model of {facts.pipeline} takes no ControlNet here")
    control = _load(facts.control, name, flag)
    unet, factor = family.denoiser, family.space.factor
    for setting in _SHARED:
        own, other = unet.config.get(setting), control.config.get(setting)
        if _plain(own) != _plain(other):
            raise BadInput(f"{flag} {name}: it is for other models; its {setting} is {other}, and this model's {own}")
    halvings = len(control.config.conditioning_embedding_out_channels) - 1
    if 2**halvings != factor:
        raise BadInput(f"{flag} {name}: it is for models whose factor is {2**halvings}, and this one's is {factor}")
    controlled = Controlled(unet, control, scale)
    controlled.eval()
    setattr(family.pipeline, facts.denoiser, controlled)
    return controlled


def _load(class_name: str, name: str, flag: str) -> Network:
    """Load a ControlNet in float32, from a folder or a name on Hugging Face."""
    hub.check_place(name, flag)
    if (Path(name) / moves.INDEX).is_file():
        raise BadInput(f"{flag} {name}: it is a whole pipeline, and a ControlNet is a network beside one; give that")
    folder = Path(name) if Path(name).is_dir() else hub.find_network(name, flag)
    try:
        with storage.all_weights_found(), layouts.readable_network(folder) as (links, from_torch):
            for path in links.iterdir():
                if path.name != layouts.CONFIG:
                    weight_files.check(path)
            return getattr(ppdiffusers, class_name).from_pretrained(
                str(links), paddle_dtype="float32", from_diffusers=from_torch
            )
    except Exception as error:  # the library may raise anything
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise BadInput(f"{flag} {name}: it can't be loaded as a ControlNet ({reason})") from error


def _plain(value: Any) -> Any:  # noqa: ANN401  a setting
    return list(value) if isinstance(value, (list, tuple)) else value
