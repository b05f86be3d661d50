"""Tiny twins of real models, tiny pictures, and the ways the tests run the tool."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dreambooth import stack
from miniworld.tokenizer import byte_alphabet

stack.load()

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--study", help="a folder of miniworld.study, whose finished runs need not be made again")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; give --slow to run it"))


SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


def clip_text(folder, length, **settings):
    """A CLIP tokenizer that spells every word but "sks", and a text encoder of two layers."""
    from ppdiffusers.transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = byte_alphabet()
    words = [*letters, *(letter + "</w>" for letter in letters), "sk", "sks</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\ns k\nsk s</w>\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), max_len=length, model_max_length=length
    )
    config = CLIPTextConfig(
        **{**SMALL, **settings},
        vocab_size=len(words),
        max_position_embeddings=length,
        projection_dim=32,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    return tokenizer, CLIPTextModel(config)


def open_clip_text(folder, length):
    """The text encoder of Stable Diffusion 2: another activation, and no multiple of four inside."""
    return clip_text(folder, length, hidden_act="gelu", num_hidden_layers=3)


def bert_text(folder, length):
    """A Chinese BERT as in Taiyi: characters as words, dropout as in the real one, a pooler that nothing uses."""
    from ppdiffusers.transformers import BertConfig, BertModel, BertTokenizer

    characters = "一张照片狗的只猫在雪地上"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *"skaphotfdg",
        *(f"##{each}" for each in "sk"),
        "sks",
    ]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    config = BertConfig(
        **SMALL,
        vocab_size=len(words),
        max_position_embeddings=length,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    return tokenizer, BertModel(config)


def tiny_vae():
    """Factor 2: 32 x 32 pixels to 16 x 16 x 4 latents."""
    from ppdiffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )


TEXTS = {"clip": clip_text, "open_clip": open_clip_text, "bert": bert_text}
SOLVERS = {
    "PNDMScheduler": dict(skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
    "DDIMScheduler": dict(clip_sample=False, steps_offset=1, set_alpha_to_one=False),
}


def build_twin(
    folder, text="clip", prediction_type="epsilon", scheduler="PNDMScheduler", length=32, inside=None, **unet_settings
):
    """A Stable Diffusion with random weights: the same classes, settings and folder layout as the real one."""
    import paddle
    import ppdiffusers
    from ppdiffusers import StableDiffusionPipeline, UNet2DConditionModel

    paddle.seed(0)
    folder.mkdir(parents=True)
    vocabulary = folder.parent / f"{folder.name}-vocabulary"
    vocabulary.mkdir()
    tokenizer, text_encoder = TEXTS[text](vocabulary, length, **({"intermediate_size": inside} if inside else {}))
    vae = tiny_vae()
    unet = UNet2DConditionModel(
        **{
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "sample_size": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            **unet_settings,
        }
    )
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type)
    settings.update(SOLVERS.get(scheduler, {}))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(ppdiffusers, scheduler)(**settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    return build_twin(tmp_path_factory.mktemp("clip") / "twin")


@pytest.fixture(scope="session")
def velocity_twin(tmp_path_factory):
    """As Stable Diffusion 2: OpenCLIP's text encoder, linear projections, velocity prediction, DDIM."""
    return build_twin(
        tmp_path_factory.mktemp("velocity") / "twin",
        text="open_clip",
        prediction_type="v_prediction",
        scheduler="DDIMScheduler",
        use_linear_projection=True,
        attention_head_dim=(2, 4),
    )


@pytest.fixture(scope="session")
def bert_twin(tmp_path_factory):
    return build_twin(tmp_path_factory.mktemp("bert") / "twin", text="bert")


def draw_pictures(folder, count, size=(40, 40)):
    """Pictures that differ from each other and are not symmetric."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = Image.new("RGB", size, (30 * number % 256, 100, 200))
        ImageDraw.Draw(image).ellipse((4 + number, 6, 28, 30), fill=(200, 40, 30 * number % 256))
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "dog", 5)


@pytest.fixture(scope="session")
def class_pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("class pictures") / "dogs", 4)


@pytest.fixture
def flags(twin, pictures, tmp_path):
    """The command line of a short run on the twin, as a function of what is to be different."""
    return lambda **changes: command_line(twin, pictures, tmp_path / "out", **changes)


def command_line(model, pictures, folder, /, **changes):
    settings = dict(
        pretrained_model_name_or_path=model,
        instance_data_dir=pictures,
        instance_prompt="a photo of sks dog",
        output_dir=folder,
        resolution=32,
        train_batch_size=1,
        max_train_steps=2,
        learning_rate=1e-3,
        seed=0,
    )
    settings.update(changes)
    line = []
    for name, value in settings.items():
        if value is True:
            line.append(f"--{name}")
        elif isinstance(value, list):
            line += [part for each in value for part in (f"--{name}", str(each))]
        elif value is not None:
            line += [f"--{name}", str(value)]
    return line


def train(line):
    """Run train_dreambooth.py's main in this process."""
    import train_dreambooth

    train_dreambooth.main(line)


def python(*arguments, **environment):
    """Run a command of the tool in a process of its own; the CompletedProcess, with its text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


def launch(folder, *arguments, processes=2):
    """Run a command under Paddle's launcher, on several processes of this machine's CPU."""
    return python(
        "-m", "paddle.distributed.launch", "--nproc_per_node", processes, "--log_dir", folder / "launcher", *arguments
    )  # fmt: skip


def weights(folder):
    """All weights of a network's folder, whatever their format."""
    import paddle
    from safetensors.numpy import load_file

    [path] = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.pdparams")]
    if path.suffix == ".safetensors":
        return load_file(path)
    return {name: value for name, value in paddle.load(str(path), return_numpy=True).items() if hasattr(value, "shape")}


def assert_same(one, other):
    """Two networks' folders hold the same weights, bit for bit."""
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and one
    for name in one:
        assert np.array_equal(one[name], other[name]), name


def largest_difference(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and one
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def build_unidiffuser(folder, length=16):
    """A UniDiffuser of version 1 with random weights: the same classes, settings and folders as the real one."""
    import paddle
    from ppdiffusers import DPMSolverMultistepScheduler, UniDiffuserPipeline
    from ppdiffusers.pipelines.unidiffuser import UniDiffuserModel, UniDiffuserTextDecoder
    from ppdiffusers.transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        GPTTokenizer,
    )

    paddle.seed(0)
    folder.mkdir(parents=True)
    vocabulary = folder.parent / f"{folder.name}-vocabulary"
    vocabulary.mkdir()
    clip_tokenizer, text_encoder = clip_text(vocabulary, length)
    words = [*byte_alphabet(), "<|endoftext|>"]
    (vocabulary / "gpt.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    text_tokenizer = GPTTokenizer(
        str(vocabulary / "gpt.json"), str(vocabulary / "merges.txt"), bos_token="<|endoftext|>"
    )
    vision = CLIPVisionConfig(**SMALL, projection_dim=24, image_size=16, patch_size=8)
    UniDiffuserPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        image_encoder=CLIPVisionModelWithProjection(vision),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        clip_tokenizer=clip_tokenizer,
        text_decoder=UniDiffuserTextDecoder(
            prefix_length=length,
            prefix_inner_dim=32,
            prefix_hidden_dim=16,
            vocab_size=len(words),
            n_positions=128,
            n_embd=32,
            n_layer=2,
            n_head=4,
        ),
        text_tokenizer=text_tokenizer,
        unet=UniDiffuserModel(
            text_dim=16,
            clip_img_dim=24,
            num_text_tokens=length,
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            sample_size=16,
            patch_size=2,
            activation_fn="gelu",
            num_embeds_ada_norm=1000,
            norm_type="layer_norm",
            block_type="unidiffuser",
            pre_layer_norm=False,
            use_timestep_embedding=False,
            norm_elementwise_affine=True,
            use_patch_pos_embed=False,
            ff_final_dropout=True,
            use_data_type_embedding=True,
        ),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", solver_order=3
        ),
    ).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def unidiffuser_twin(tmp_path_factory):
    return build_unidiffuser(tmp_path_factory.mktemp("unidiffuser") / "twin")
