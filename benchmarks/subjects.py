"""What is measured: a model's folder, a short run on it, the machine, and the table that is printed."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dreambooth.config.parser import Parser
from dreambooth.files import atomic
from dreambooth.models import pipeline_folder
from dreambooth.system import libraries
from dreambooth.system.errors import BadInput
from miniworld import networks, paths

ROOT = Path(__file__).parent.parent
MINI = paths.MODEL
median = statistics.median
FULL = Path(tempfile.gettempdir()) / "dreambooth-full-size"


def parser(name, description):
    made = Parser(prog=f"python -m benchmarks.{name}", description=description)
    made.add_argument(
        "--model",
        default="mini",
        metavar="TEXT",
        help=f"a pipeline's folder; 'mini', the embedded model; or 'full', Stable Diffusion 1's shape with random"
        f" weights, which is made in {FULL} (4.3 GB, kept for the next time) (default: mini)",
    )
    return made


def folder_of(model):
    """The folder of what --model names."""
    if model == "full" and not (FULL / "model_index.json").is_file():
        print(f"making {FULL}", flush=True)
        # in a process of its own, which gives its memory back
        build = "from benchmarks import subjects; subjects.build_full_size(subjects.FULL)"
        subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True)
    folder = {"mini": MINI, "full": FULL}.get(model, Path(model))
    if not folder.is_dir():
        raise BadInput(f"--model {model}: there is no such folder")
    pipeline_folder.check(str(folder), "--model")
    return folder


def add_run_flags(parser):
    parser.add_argument("--batch", type=int, metavar="N", help="the batch (default: 4; full 1)")
    parser.add_argument("--resolution", type=int, metavar="N", help="pixels a side (default: 64; full 256)")


def run_of(arguments):
    """(folder, pixels a side, batch) of a benchmark's run."""
    batch = arguments.batch or (1 if arguments.model == "full" else 4)
    return folder_of(arguments.model), arguments.resolution or size_of(arguments.model), batch


def size_of(model):
    """Pixels a side."""
    return {"mini": 64, "full": 256}.get(model, 512)


def build_full_size(folder):
    """A Stable Diffusion 1 with random weights. What it draws is noise, but it costs what the real one does."""
    libraries.load()
    from ppdiffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from ppdiffusers.transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(MINI), subfolder="tokenizer", model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        text_encoder=CLIPTextModel(text),
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
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with atomic.whole_folder(folder) as temporary:
        pipeline.save_pretrained(str(temporary))


def run_flags(folder, output, size, batch, steps, *more):
    """The command line of a short run on the five sample pictures."""
    return [
        *("--pretrained_model_name_or_path", str(folder)),
        *("--instance_data_dir", str(ROOT / "dream_image")),
        *("--instance_prompt", "a photo of sks dog"),
        *("--output_dir", str(output)),
        *("--resolution", str(size)),
        *("--train_batch_size", str(batch)),
        *("--max_train_steps", str(steps)),
        *("--seed", "0"),
        *more,
    ]


def machine():
    """One line: processor, memory, versions."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.split(":")[1].strip()
                break
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (OSError, ValueError):
        memory = "memory unknown"
    versions = ", ".join(f"{name} {number}" for name, number in libraries.versions().items())
    return (
        f"{processor}, {len(os.sched_getaffinity(0))} cores, {memory}; Python {platform.python_version()}, {versions}"
    )


def table(head, rows):
    """Lines of Markdown, with the machine below."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(["| " + " | ".join(map(str, line)) + " |" for line in lines] + ["", machine()])
