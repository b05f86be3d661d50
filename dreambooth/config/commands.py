"""The settings of drawing, and the flags that infer.py and the other commands share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dreambooth.config.fields import Section, check_png, flag
from dreambooth.config.run_sections import Precision, SchedulerName
from dreambooth.system import console
from dreambooth.system.errors import BadInput
from dreambooth.system.types import Size, override

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_RUNS = 8  # on a page
_GUIDANCE = 7.5
_STRENGTH = 0.8
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LONE = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are no UTF-8
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
    from_picture: bool = False  # it begins from one
    # the flags that errors name
    steps_flag: str = "--num_inference_steps"
    scheduler_flag: str = "--scheduler"
    is_scheduler_chosen: bool = True  # else it is a default
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


@dataclass(frozen=True)
class InstrumentFlags(DrawFlags, title="instruments"):
    """The flags of the commands that draw and measure."""

    clip_model_path: str = flag(
        "the CLIP model to measure with: a folder, or a name (required)", required=True)
    dino_model_path: str | None = flag(
        "a DINO to measure with too: a folder, or a name such as facebook/dino-vits16")
    num_images: int = flag(
        "pictures for each prompt", 4, least=1)

    @property
    def instruments(self) -> dict[str, str]:
        """The models to measure with, by flag."""
        named = {"--clip_model_path": self.clip_model_path, "--dino_model_path": self.dino_model_path}
        return {option: path for option, path in named.items() if path}


@dataclass(frozen=True)
class MeasuredSubject(Section, title="subject and prompts"):
    """A subject that a model was taught, and what of it is measured."""

    subject_data_dir: str | None = flag(
        "other pictures of the subject than it was trained on (required, unless --concepts is given)")
    prompt: tuple[str, ...] = flag(
        "prompts of the subject", (), nargs="+", action="extend")
    prompts_file: str | None = flag(
        "a prompt in each line; behind a tab, the names of the subject's pictures in that scene (with * and ?)",
        metavar="FILE")
    class_prompt: str | None = flag(
        'the prompt of the class, "a photo of a dog"; without it there is no PRES')
    identifier: str | None = flag(
        "the rare word, which is left out of what CLIP reads")

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.identifier or Path(self.subject_data_dir or "").resolve().name

    def check(self) -> None:
        """Refuse a subject without pictures or prompts."""
        if not (self.subject_data_dir or "").strip():
            raise BadInput("--subject_data_dir is required")
        if self.class_prompt is not None and not self.class_prompt.strip():
            raise BadInput("--class_prompt: it is empty")
        if not self.prompt and not self.prompts_file:
            raise BadInput("--prompt: give at least one, or --prompts_file")
        check_prompts(self.prompt)


@dataclass(frozen=True)
class MetricsSettings(InstrumentFlags, MeasuredSubject, title="models and files"):
    """The settings of dreambooth.metrics."""

    model_path: str = flag(
        "the fine-tuned pipeline's folder (required)", required=True)
    base_model_path: str = flag(
        "the pipeline that it was made from (required)", required=True)
    concepts: str | None = flag(
        "several subjects: a YAML, TOML or JSON file with a list of subject_data_dir, prompt, prompts_file,"
        " class_prompt, identifier", metavar="FILE")
    num_class_images: int = flag(
        "pictures of the class prompt", 16, least=1)
    json: str | None = flag(
        "write the figures there; - for the terminal, instead of the table", metavar="FILE")
    sheet: str | None = flag(
        "write a contact sheet there: prompts by subject, base and fine-tuned", metavar="FILE.png")
    pictures_dir: str | None = flag(
        "write the fine-tuned model's pictures into this folder")

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concepts is None:
            self.check()
        for name in ("subject_data_dir", "prompt", "prompts_file", "class_prompt", "identifier"):
            if self.concepts is not None and getattr(self, name):
                raise BadInput(f"--{name} can't be combined with --concepts, whose list has it for each subject")
        check_png("--sheet", self.sheet)


@dataclass(frozen=True)
class ReportSettings(CommandFlags, title="runs and files"):
    """The settings of dreambooth.report."""

    model_path: tuple[str, ...] = flag(
        "the output folder of a run, or of up to 8 runs to compare (required)", (), required=True, nargs="+",
        action="extend")
    output: str | None = flag(
        "the file of the page (default: report.html in the folder of a run; comparison.html, of several)",
        metavar="FILE.html")

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        folders = [Path(each).resolve() for each in self.model_path]
        if len({*folders}) < len(folders):
            raise BadInput("--model_path: the same folder stands there twice")
        if len(folders) > MOST_RUNS:
            raise BadInput(f"--model_path: {len(folders)} runs are too many for a page; give at most {MOST_RUNS}")
        if self.output and Path(self.output).suffix.lower() not in (".html", ".htm"):
            raise BadInput(f"--output {self.output}: must end in .html")


@dataclass(frozen=True)
class PushSettings(CommandFlags, title="result and place"):
    """The settings of dreambooth.push."""

    model_path: str = flag(
        "the output folder of a run (required)", required=True)
    to: Literal["hub", "folder"] = flag(
        "where to: the Hugging Face hub, or a folder (required)", "", required=True, choices=("hub", "folder"))
    name: str | None = flag(
        "with --to hub: the repository", metavar="USER/NAME")
    output: str | None = flag(
        "with --to folder: the new folder")
    public: bool = flag(
        "let everybody see a new repository; without it, it is private", False)
    license: str | None = flag(
        "the licence, as the hub calls it (default: the base model's, where that is known)")
    with_training_pictures: bool = flag(
        "also share the pictures that the run trained on, without what a camera wrote into them", False)
    dry_run: bool = flag(
        "list what would be shared, and stop", False)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        needed, other = ("name", "output") if self.to == "hub" else ("output", "name")
        if getattr(self, needed) is None:
            raise BadInput(f"--to {self.to} needs --{needed}")
        for flag_name in (other, *(["public"] if self.to == "folder" else [])):
            if getattr(self, flag_name):
                raise BadInput(f"--{flag_name} needs --to {'folder' if flag_name == 'output' else 'hub'}")
        if self.license is not None and not _LICENCE.fullmatch(self.license):
            raise BadInput(f"--license {self.license}: no name of a licence; the hub has names such as apache-2.0")


@dataclass(frozen=True)
class InputFlags(Section, title="pictures to draw from"):
    """The flags for what a drawing begins from, and is led by, beside its prompt."""

    image: str | None = flag(
        "a picture to begin from, in place of noise alone", metavar="FILE")
    mask: str | None = flag(
        "which part of --image to paint anew: white in this picture; the rest stays as it is", metavar="FILE")
    strength: float | None = flag(
        "how much of --image is drawn anew, up to 1, which it is with --mask (default: 0.8)", type=float, above=0)
    controlnet: str | None = flag(
        "a ControlNet, which draws by --control_image: a folder, or a name on Hugging Face")
    control_image: tuple[str, ...] = flag(
        "what the ControlNet sees, such as a pose; each one is drawn", (), nargs="+", action="extend", metavar="FILE")
    upscaler: str | None = flag(
        "a model that enlarges the pictures once they are drawn: a folder, or a name on the hub")
    draw_edges: bool = flag(
        "let the ControlNet see the edges of --control_image, for one that was made for edges", False)
    control_scale: float | None = flag(
        "how much of the ControlNet (default: 1)", type=float)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mask", "strength"):
            if getattr(self, name) is not None and self.image is None:
                raise BadInput(f"--{name} needs --image")
        if self.strength is not None and self.strength > 1:
            raise BadInput(f"--strength {self.strength}: must be at most 1")
        if self.controlnet is not None and not self.control_image:
            raise BadInput("--controlnet needs --control_image, what it is to see")
        for name in ("control_image", "draw_edges", "control_scale"):
            if getattr(self, name) not in ((), False, None) and self.controlnet is None:
                raise BadInput(f"--{name} needs --controlnet")

    @property
    def share_drawn(self) -> float:
        """The share of the steps that is drawn, of a picture to begin from."""
        return self.strength if self.strength is not None else _STRENGTH if self.mask is None else 1.0

    @property
    def share_of_control(self) -> float:
        """The factor of what a ControlNet adds."""
        return 1.0 if self.control_scale is None else self.control_scale
# fmt: on


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse prompts without a word or of no text, and warn where they seem to be the words of one."""
    if not all(prompt.strip() for prompt in prompts):
        raise BadInput("--prompt: a prompt is empty")
    if any(_LONE.search(prompt) for prompt in prompts):
        raise BadInput("--prompt: a prompt is no UTF-8 text; set the terminal to UTF-8, or write the prompt anew")
    if len(prompts) > 1 and not any(_SEVERAL_WORDS.search(prompt) for prompt in prompts):
        console.warn(
            f"--prompt: these are {len(prompts)} prompts of one word each; for one prompt, put it into quotes:"
            f' --prompt "{" ".join(prompts)}"'
        )
