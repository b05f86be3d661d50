"""One file in the original layout: read back by the library's own converter, which was written for the real files."""

import json

import numpy as np
import pytest
from support.families import load_family, load_pipeline
from support.twins import build_twin

from dreambooth.files import single_file
from dreambooth.models import saving
from dreambooth.system.errors import BadInput

DEEP = dict(
    block_out_channels=(16, 32, 32),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)


@pytest.fixture(scope="module")
def deep_twin(tmp_path_factory):
    """Blocks with and without attention on both sides, two layers in each, as in the real one."""
    return build_twin(tmp_path_factory.mktemp("deep") / "twin", **DEEP)


def parts_of(folder):
    pipeline = load_pipeline(folder)
    return pipeline, {part: saving.torch_arrays(getattr(pipeline, part)) for part in ("unet", "vae", "text_encoder")}


def joined(pipeline, parts, open_clip=False):
    layers = pipeline.unet.config.layers_per_block
    text = single_file.OPEN_CLIP if open_clip else single_file.CLIP
    sections = {"unet": single_file.UNET, "vae": single_file.VAE, "text_encoder": text}
    return single_file.join_weights(parts, sections, layers)


def assert_same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].shape == theirs[name].shape, name
        assert np.array_equal(mine[name], theirs[name]), name


def test_the_library_reads_unet_and_vae_back(deep_twin):
    from ppdiffusers.pipelines.stable_diffusion import convert_from_ckpt

    pipeline, parts = parts_of(deep_twin)
    weights = joined(pipeline, parts)
    settings = {name: value for name, value in pipeline.unet.config.items() if name != "num_class_embeds"}
    assert_same(convert_from_ckpt.convert_ldm_unet_checkpoint(dict(weights), settings), parts["unet"])
    read = convert_from_ckpt.convert_ldm_vae_checkpoint(dict(weights), dict(pipeline.vae.config))
    assert_same(read, parts["vae"])


def test_stable_diffusion_3_has_the_names_and_shapes_of_the_real_file(sd3_twin):
    family = load_family(sd3_twin)
    weights = saving.single_file_weights(family)
    own = saving.torch_arrays(family.denoiser)
    inside = "model.diffusion_model."
    assert weights[f"{inside}pos_embed"].shape == (1, 144, 32) and weights[f"{inside}x_embedder.proj.bias"].shape == (
        32,
    )
    queries = weights[f"{inside}joint_blocks.0.context_block.attn.qkv.weight"]
    assert queries.shape == (96, 32)
    assert np.array_equal(queries[32:64], own["transformer_blocks.0.attn.add_k_proj.weight"])
    for name, other in (
        ("final_layer", "norm_out"),
        ("joint_blocks.2.context_block", "transformer_blocks.2.norm1_context"),
    ):
        here = weights[f"{inside}{name}.adaLN_modulation.1.weight"]
        there = own[f"{other}.linear.weight"]
        assert np.array_equal(here, np.concatenate([there[32:], there[:32]]))  # shift before scale
    middle = weights[f"{inside}joint_blocks.1.context_block.adaLN_modulation.1.bias"]
    assert np.array_equal(middle, own["transformer_blocks.1.norm1_context.linear.bias"])
    beginnings = {".".join(name.split(".")[:2]) for name in weights}
    encoders = {f"text_encoders.{name}" for name in ("clip_l", "clip_g", "t5xxl")}
    assert beginnings == {"first_stage_model.encoder", "first_stage_model.decoder", *encoders} | {
        f"model.{name}" for name in ("diffusion_model",)
    }


def test_a_file_may_lack_the_text_encoders_of_stable_diffusion_3(sd3_twin):
    family = load_family(sd3_twin)
    weights = saving.single_file_weights(family)
    alone = {name: each + 1 for name, each in weights.items() if not name.startswith("text_encoders.")}
    before = saving.torch_arrays(family.pipeline.text_encoder)
    saving.set_single_file_weights(family, alone, "--model_path")
    assert_same(saving.torch_arrays(family.pipeline.text_encoder), before)
    assert_same(saving.single_file_weights(family), {**weights, **alone})
    # the real file has no last projection of its first text encoder
    real = {
        name: each
        for name, each in weights.items()
        if name != "text_encoders.clip_l.transformer.text_projection.weight"
    }
    saving.set_single_file_weights(family, real, "--model_path")
    projection = saving.torch_arrays(family.pipeline.text_encoder)["text_projection.weight"]
    assert np.array_equal(projection, np.eye(len(projection)))
    del alone["model.diffusion_model.pos_embed"]
    with pytest.raises(BadInput, match="it is of another model; it has no model.diffusion_model.pos_embed"):
        saving.set_single_file_weights(family, alone, "--model_path")


def test_the_names_of_the_real_files_are_there(deep_twin):
    pipeline, parts = parts_of(deep_twin)
    weights = joined(pipeline, parts)
    for name in (
        "model.diffusion_model.time_embed.0.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.middle_block.2.out_layers.3.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",  # a block without attention
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "model.diffusion_model.out.2.bias",
        "first_stage_model.encoder.down.0.downsample.conv.weight",
        "first_stage_model.encoder.mid.attn_1.proj_out.weight",
        "first_stage_model.decoder.up.1.upsample.conv.weight",
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight",
        "first_stage_model.decoder.norm_out.weight",
        "first_stage_model.quant_conv.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ):
        assert name in weights, name
    assert weights["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (32, 32, 1, 1)
    assert len(weights) == sum(len(part) for part in parts.values())


def test_the_library_reads_the_text_encoder_of_stable_diffusion_2_back(velocity_twin):
    from ppdiffusers.pipelines.stable_diffusion import convert_from_ckpt

    pipeline, parts = parts_of(velocity_twin)
    weights = joined(pipeline, parts, open_clip=True)
    prefix = "cond_stage_model.model."
    assert weights[prefix + "transformer.resblocks.2.attn.in_proj_weight"].shape == (96, 32)
    of_text = {name: value for name, value in weights.items() if name.startswith(prefix)}
    of_text[prefix + "text_projection"] = np.zeros([32, 32], np.float32)  # by which the converter knows the width
    folder = velocity_twin / "text_encoder"
    read = convert_from_ckpt.convert_open_clip_checkpoint(of_text, str(folder), local_files_only=True)
    mine, theirs = pipeline.text_encoder.state_dict(), read.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert np.array_equal(mine[name].numpy(), theirs[name].numpy()), name
    assert json.loads((folder / "config.json").read_text())["hidden_act"] == "gelu"
