"""The benchmarks' subjects: a model by its name, a short run on it, and the table with its figures."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config.parser import Parser
from dreambooth.files import atomic, moves, weight_files
from dreambooth.models import pipeline_folder, saving
from dreambooth.system import libraries, machine
from dreambooth.system.errors import BadInput
from miniworld import networks, paths

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ppdiffusers.transformers import CLIPTextConfig

    from dreambooth.system.types import Network, Tokenizer

ROOT = Path(__file__).parent.parent
MINI = paths.MODEL
FULL = Path(tempfile.gettempdir()) / "dreambooth-full-size"
XL = Path(tempfile.gettempdir()) / "dreambooth-xl-size"
median = statistics.median
# --model -> pixels a side, batch, and the VAE's factor
_DEFAULTS = {"mini": (64, 4, 4), "full": (256, 1, 8), "xl": (1024, 1, 8)}
_FOLDER_DEFAULTS = (512, 4, 8)


@dataclass(frozen=True)
class Subject:
    """A model, and the settings of its runs."""

    name: str  # that of --model
    folder: Path
    size: int  # pixels a side
    batch: int
    factor: int  # of the VAE: pixels for each latent along a side

    @property
    def is_full(self) -> bool:
        """Check whether this is the full-size model, which takes fewer repetitions."""
        return self.name == "full"

    @property
    def is_xl(self) -> bool:
        """Check whether this is the model of Stable Diffusion XL's shape."""
        return self.name == "xl"


def make_parser(name: str, description: str | None) -> Parser:
    """Make the parser of a benchmark, with the flag for its model."""
    parser = Parser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument(
        "--model",
        default="mini",
        metavar="TEXT",
        help="the folder of a pipeline; 'mini', the embedded model; 'full', a model of Stable Diffusion 1's shape"
        f" with random weights, which the first use writes into {FULL} (4.3 GB); for benchmarks.memory also 'xl',"
        f" one of Stable Diffusion XL's shape, in {XL} (7 GB) (default: mini)",
    )
    return parser


def add_run_flags(parser: Parser) -> None:
    """Add the flags for the size of a run."""
    parser.add_argument("--batch", type=int, metavar="N", help="training batch (default: 4; full and xl 1)")
    parser.add_argument("--resolution", type=int, metavar="N", help="pixels a side (default: 64; full 256; xl 1024)")


def subject_of(arguments: argparse.Namespace, with_xl: bool = False) -> Subject:
    """Return the subject of a command line; the first use of a model with random weights builds it."""
    name, given = arguments.model, vars(arguments)
    if name == "xl" and not with_xl:
        raise BadInput("--model xl: for python -m benchmarks.memory alone")
    size, batch, factor = _DEFAULTS.get(name, _FOLDER_DEFAULTS)
    return Subject(name, find_folder(name), given.get("resolution") or size, given.get("batch") or batch, factor)


def find_folder(model: str) -> Path:
    """Return the folder of a model; build it if it is one with random weights, and does not exist."""
    folder = {"mini": MINI, "full": FULL, "xl": XL}.get(model, Path(model))
    build = {"full": "build_full_size(subjects.FULL)", "xl": "build_xl(subjects.XL)"}.get(model)
    if build and not (folder / moves.INDEX).is_file():
        print(f"making {folder}", flush=True)
        # a process for the build alone gives its memory back
        line = [sys.executable, "-c", f"from benchmarks import subjects; subjects.{build}"]
        subprocess.run(line, cwd=ROOT, check=True)
    if not folder.is_dir():
        raise BadInput(f"--model {model}: not a folder; give a pipeline's folder, mini, full or xl")
    pipeline_folder.check(str(folder), "--model")
    return folder


def build_full_size(folder: Path) -> None:
    """Write a Stable Diffusion 1 with random weights: it draws noise, but costs as much as the real model."""
    libraries.load(weight_files.READERS)
    from ppdiffusers import UNet2DConditionModel
    from ppdiffusers.transformers import CLIPTextModel

    tokenizer = _tokenizer()
    pipeline = networks.pipeline(
        vae=_vae(512),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 768, layers=12)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        ),
    )
    with atomic.whole_folder(folder) as temporary:
        pipeline.save_pretrained(str(temporary))


def build_xl(folder: Path) -> None:
    """Write a Stable Diffusion XL with random weights, in half precision, as most have it."""
    libraries.load(weight_files.READERS)
    from ppdiffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from ppdiffusers.transformers import CLIPTextModel, CLIPTextModelWithProjection

    def halved(network: Network) -> Network:
        saving.to_float16(network)  # before the next part is made
        return network

    tokenizer = _tokenizer()
    pipeline = StableDiffusionXLPipeline(
        unet=halved(
            UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=2,
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            )
        ),
        vae=halved(_vae(1024)),
        text_encoder=halved(CLIPTextModel(_text_config(tokenizer, 768, layers=12))),
        text_encoder_2=halved(
            CLIPTextModelWithProjection(
                _text_config(tokenizer, 1280, layers=32, projection_dim=1280, hidden_act="gelu")
            )
        ),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=networks.scheduler(),
        add_watermarker=False,
    )
    with atomic.whole_folder(folder) as temporary:
        pipeline.save_pretrained(str(temporary), safe_serialization=True)


def _tokenizer() -> Tokenizer:
    from ppdiffusers.transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(MINI), subfolder="tokenizer", model_max_length=77)


def _text_config(tokenizer: Tokenizer, width: int, layers: int, **more: object) -> CLIPTextConfig:
    """Return the shape of a CLIP text encoder with heads of 64."""
    from ppdiffusers.transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def _vae(size: int) -> Network:
    """Return an untrained VAE of Stable Diffusion."""
    from ppdiffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=size,
    )


def command_line(subject: Subject, output: Path | str, steps: int, *more: str) -> list[str]:
    """Return the command line of a short run on the five sample pictures."""
    return [
        *("--pretrained_model_name_or_path", str(subject.folder)),
        *("--instance_data_dir", str(ROOT / "dream_image")),
        *("--instance_prompt", "a photo of sks dog"),
        *("--output_dir", str(output)),
        *("--resolution", str(subject.size)),
        *("--train_batch_size", str(subject.batch)),
        *("--max_train_steps", str(steps)),
        *("--seed", "0"),
        "--no_last_checkpoint",
        *more,
    ]


def ratio(pairs: Sequence[tuple[float, float]], digits: int = 3) -> str:
    """Return the median of each pair's second figure over its first, with the quartiles."""
    ratios = sorted(second / first for first, second in pairs)
    quarter = len(ratios) // 4
    middle, low, high = (f"{each:.{digits}f}" for each in (median(ratios), ratios[quarter], ratios[-1 - quarter]))
    return f"{middle} ({low} to {high})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown, with a line about the machine below."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(["| " + " | ".join(map(str, line)) + " |" for line in lines] + ["", _machine()])


def _machine() -> str:
    """Return one line with processor, memory and versions."""
    try:
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (OSError, ValueError):
        memory = "memory unknown"
    versions = ", ".join(f"{name} {number}" for name, number in libraries.versions().items())
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{machine.processor_name()}, {cores} cores, {memory}; Python {python}, {versions}"
