"""The settings of drawing, and the flags that infer.py and the other commands share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from dreambooth.config.fields import Section, flag
from dreambooth.config.run_sections import Precision, SchedulerName
from dreambooth.system import console
from dreambooth.system.errors import BadInput
from dreambooth.system.types import Size

if TYPE_CHECKING:
    from collections.abc import Sequence

_GUIDANCE = 7.5
_SEVERAL_WORDS = re.compile(r"\s|[\u3400-\u9fff]")  # or Chinese, which has no spaces


@dataclass(frozen=True)
class DrawSettings:
    """The settings of a drawing."""

    seed: int
    purpose: str  # of the random numbers
    size: Size
    steps: int
    guidance: float = _GUIDANCE
    scheduler: SchedulerName | None = None  # None: the model's own
    batch_size: int = 4
    negative_prompt: str | None = None
    precision: Precision = "no"
    # the flags that errors name
    steps_flag: str = "--num_inference_steps"
    scheduler_flag: str = "--scheduler"
    negative_flag: str = "--negative_prompt"


# fmt: off
@dataclass(frozen=True)
class CommandFlags(Section, title="messages"):
    """The flags of every command beside training."""

    verbose: bool = flag(
        "show the libraries' own messages too", False)


@dataclass(frozen=True)
class DrawFlags(CommandFlags, title="drawing"):
    """The flags of the commands that draw."""

    num_inference_steps: int = flag(
        "denoising steps", 50, least=1)
    guidance_scale: float = flag(
        "weight of the prompt", _GUIDANCE, least=0)
    scheduler: SchedulerName | None = flag(
        "the scheduler that draws (default: the model's own)", choices=get_args(SchedulerName))
    seed: int = flag(
        "the origin of the noise; picture k of a prompt depends on nothing else of it", 0, least=0)
    batch_size: int = flag(
        "pictures drawn at once (on the CPU, by a small network alone)", 4, least=1)
    mixed_precision: Precision = flag(
        "draw in half precision on a card: faster, in half the memory", "no", choices=get_args(Precision))

    def draw_settings(self, size: Size, negative_prompt: str | None = None) -> DrawSettings:
        """Put together how pictures of a size are drawn."""
        return DrawSettings(
            self.seed,
            "picture",
            size,
            self.num_inference_steps,
            self.guidance_scale,
            self.scheduler,
            self.batch_size,
            negative_prompt,
            self.mixed_precision,
        )
# fmt: on


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse prompts without a word, and warn where they seem to be the words of one."""
    if not all(prompt.strip() for prompt in prompts):
        raise BadInput("--prompt: a prompt is empty")
    if len(prompts) > 1 and not any(_SEVERAL_WORDS.search(prompt) for prompt in prompts):
        console.warn(
            f"--prompt: these are {len(prompts)} prompts of one word each; for one prompt, put it into quotes:"
            f' --prompt "{" ".join(prompts)}"'
        )
