"""LoRA files: each format is written and read back, and a file that is no LoRA is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.crafted_pickles import torch_weights

from dreambooth.files import lora, weight_files
from dreambooth.files.lora import Matrices
from dreambooth.models import registry
from dreambooth.system.errors import BadInput

_ROW = registry.FAMILIES["StableDiffusionPipeline"]
FACTS = _ROW.lora_prefixes, _ROW.text_encoders

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"


def pair(rows, columns, rank=2, seed=0):
    random = np.random.default_rng(seed)
    return Matrices(
        random.standard_normal((rank, columns)).astype(np.float32),
        random.standard_normal((rows, rank)).astype(np.float32),
    )


@pytest.fixture
def parts():
    return {"unet": {UNET: pair(8, 6)}, "text_encoder": {TEXT: pair(4, 4, seed=1)}}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for part in one:
        assert one[part].keys() == other[part].keys()
        for layer in one[part]:
            for a, b in zip(one[part][layer], other[part][layer], strict=True):
                assert (a is None) == (b is None) and (a is None or np.allclose(a, b, atol=1e-7))


@pytest.mark.parametrize("form", ["paddle", "diffusers"])
def test_a_written_file_reads_back_the_same(parts, form, tmp_path):
    random = np.random.default_rng(5)  # a convolution, as other tools have them
    shapes = (2, 6, 3, 3), (8, 2, 1, 1)
    convolution = Matrices(*(random.standard_normal(shape).astype(np.float32) for shape in shapes))
    parts["unet"]["mid_block.resnets.0.conv1"] = convolution
    lora.write(tmp_path / "new/a", parts, form, *FACTS)
    assert_equal(lora.read(tmp_path / "new/a", "--lora", registry.LORA_PARTS), parts)


def with_lengths(parts):
    """The same as a DoRA, with a convolution in it."""
    numbers = np.random.default_rng(4)
    kernel = Matrices(*(numbers.standard_normal(shape).astype(np.float32) for shape in ((2, 6, 3, 3), (8, 2, 1, 1))))
    parts["unet"]["mid_block.resnets.0.conv1"] = kernel
    return {
        part: {name: each._replace(lengths=numbers.random(len(each.up), np.float32)) for name, each in layers.items()}
        for part, layers in parts.items()
    }


@pytest.mark.parametrize("form", ["paddle", "diffusers", "web_ui"])
def test_a_dora_has_its_lengths_in_the_names_and_shapes_of_each_tool(parts, form, tmp_path):
    dora = with_lengths(parts)
    lora.write(tmp_path / "a", dora, form, *FACTS)
    found = lora.read(tmp_path / "a", "--lora", registry.LORA_PARTS)
    if form == "web_ui":  # it has _ for dots, and the rest of a text encoder's attention
        found = {part: {name: found[part][name.replace(".", "_")] for name in layers} for part, layers in dora.items()}
    assert_equal(found, dora)
    shapes = {name: each.shape for name, each in load_file(tmp_path / "a").items()}
    lengths = {name: shape for name, shape in shapes.items() if "magnitude" in name or "dora" in name}
    kernel = "lora_unet_mid_block_resnets_0_conv1.dora_scale"
    expected = {
        # as peft has them, which differs between its readers of networks and of text encoders
        f"unet.{UNET}.lora_magnitude_vector": (8,),
        "unet.mid_block.resnets.0.conv1.lora_magnitude_vector": (1, 8, 1, 1),
        f"text_encoder.{TEXT}.lora_magnitude_vector.weight": (4,),
    }
    if form == "web_ui":
        assert len(lengths) == 3 and lengths[kernel] == (8, 1, 1, 1)
    else:
        assert lengths == expected


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({f"unet.{UNET}.lora_magnitude_vector": np.ones(3, np.float32)}, "the lengths of .* do not fit its matrices"),
        ({"unet.other.lora_magnitude_vector": np.ones(8, np.float32)}, "unet.other has lengths, and no matrices"),
        ({f"unet.{UNET}.dora_scale": np.ones((1, 8), np.float32)}, "lengths of the inputs, and not of the outputs"),
        ({f"unet.{UNET}.dora_scale": np.ones((), np.float32)}, "lengths of the inputs"),
        ({f"unet.{UNET}.dora_scale": np.full((8, 1), np.nan, np.float32)}, "has values that are no numbers"),
        ({f"unet.{UNET}.lora.down.weight": np.full((2, 6), np.inf, np.float32)}, "has values that are no numbers"),
        ({f"unet.{UNET}.alpha": np.array(np.nan, np.float32)}, "the alpha or the rank of"),
        (
            {
                f"unet.{UNET}.lora.down.weight": np.ones((0, 6), np.float32),
                f"unet.{UNET}.lora.up.weight": np.ones((8, 0), np.float32),
            },
            "do not fit each other",
        ),
    ],
)
def test_numbers_that_fit_no_matrices_are_refused(parts, change, complaint, tmp_path):
    lora.write(tmp_path / "a", parts, "diffusers", *FACTS)
    save_file({**load_file(tmp_path / "a"), **change}, tmp_path / "b.safetensors")
    with pytest.raises(BadInput, match=complaint):
        lora.read(tmp_path / "b.safetensors", "--lora", registry.LORA_PARTS)


@pytest.mark.parametrize("layer", ["mlp.fc1", "mlp.fc2", "self_attn.v_proj"])
def test_a_web_uis_file_has_the_whole_attention_of_a_text_encoder(layer, tmp_path):
    """diffusers 0.42 drops the layers of a file in which some are missing."""
    name, shapes = f"text_model.encoder.layers.3.{layer}", {"mlp.fc1": (16, 4), "mlp.fc2": (4, 16)}
    own = pair(*shapes.get(layer, (4, 4)))
    lora.write(tmp_path / "a", {"text_encoder": {name: own}}, "web_ui", *FACTS)
    found = load_file(tmp_path / "a")
    for each in ("q_proj", "k_proj", "v_proj", "out_proj"):
        down, up = (
            found[f"lora_te_text_model_encoder_layers_3_self_attn_{each}.lora_{side}.weight"] for side in ("down", "up")
        )
        assert (up @ down).shape == (4, 4) and (layer.endswith(each) or not (up @ down).any())
        assert len(down) == 2  # of another rank, diffusers misreads it too


def test_each_format_has_its_tools_names_and_layout(parts, tmp_path):
    for form in ("paddle", "diffusers", "web_ui"):
        lora.write(tmp_path / form, parts, form, *FACTS)
    paddles, torchs, web = (load_file(tmp_path / form) for form in ("paddle", "diffusers", "web_ui"))
    assert paddles[f"unet.{UNET}.lora.down.weight"].shape == (6, 2)
    assert torchs[f"unet.{UNET}.lora.down.weight"].shape == (2, 6)
    assert torchs[f"text_encoder.{TEXT}.lora_linear_layer.up.weight"].shape == (4, 2)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert web[f"{name}.lora_down.weight"].shape == (2, 6) and web[f"{name}.alpha"] == 2
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in web


@pytest.mark.parametrize("form, name", [("paddle", "a.pdparams"), ("diffusers", "a.bin"), ("diffusers", "a.pt")])
def test_a_pickle_of_weights_reads_back_the_same(parts, form, name, tmp_path):
    lora.write(tmp_path / "a.safetensors", parts, form, *FACTS)
    weights = load_file(tmp_path / "a.safetensors")
    if form == "paddle":
        weight_files.write_pickled(tmp_path / name, weights)
    else:
        torch_weights(tmp_path / name, weights)
    assert_equal(lora.read(tmp_path / name, "--lora", registry.LORA_PARTS), parts)


def test_in_a_folder_safetensors_go_before_pickles(parts, tmp_path):
    with pytest.raises(BadInput, match="--lora .*: no LoRA, there is no paddle_lora_weights.safetensors or"):
        lora.find_file(tmp_path, "--lora")
    for name in ("pytorch_lora_weights.bin", "paddle_lora_weights.pdparams", "pytorch_lora_weights.safetensors"):
        if name.endswith(".bin"):
            torch_weights(tmp_path / name, {"a": np.ones((2, 2), np.float32)})
        elif name.endswith(".pdparams"):
            weight_files.write_pickled(tmp_path / name, {"a": np.ones(2, np.float32)})
        else:
            lora.write(tmp_path / name, parts, "diffusers", *FACTS)
        assert lora.find_file(tmp_path, "--lora") == tmp_path / name
    (tmp_path / name).write_bytes(b"cut short")
    with pytest.raises(BadInput, match=f"--lora {tmp_path / name}: it can't be read .no safetensors file"):
        lora.find_file(tmp_path, "--lora")


def test_alpha_in_a_file_scales_the_second_matrix(parts, tmp_path):
    down, up, _ = parts["unet"][UNET]
    name = "lora_unet_" + UNET.replace(".", "_")
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": np.array(1, np.float32)},
        tmp_path / "a",
    )
    read = lora.read(tmp_path / "a", "--lora", registry.LORA_PARTS)["unet"][UNET.replace(".", "_")]
    assert np.allclose(read[1], up / 2)


def test_the_metadata_of_newer_diffusers_scale_the_second_matrix(parts, tmp_path):
    names = f"unet.{UNET}.lora_A.weight", f"unet.{UNET}.lora_B.weight"
    known = {"unet.r": 2, "unet.lora_alpha": 6}
    for more, scale in (
        ({}, 3),
        ({"unet.alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"unet.rank_pattern": {"to_v": 64}}, 3),
        ({"unet.use_rslora": True}, 6 / 2**0.5),
    ):
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps({**known, **more})}
        save_file(dict(zip(names, parts["unet"][UNET])), tmp_path / "a", metadata)
        read = lora.read(tmp_path / "a", "--lora", registry.LORA_PARTS)["unet"][UNET]
        assert np.allclose(read[1], parts["unet"][UNET][1] * scale)


@pytest.mark.parametrize(
    "down, up",
    [
        (f"unet.{UNET}.lora_A.weight", f"unet.{UNET}.lora_B.weight"),
        (
            "unet." + UNET.replace("to_q", "processor.to_q_lora.down.weight"),
            "unet." + UNET.replace("to_q", "processor.to_q_lora.up.weight"),
        ),
        (
            UNET.replace("to_q", "processor.to_q_lora.down.weight"),
            UNET.replace("to_q", "processor.to_q_lora.up.weight"),
        ),
    ],
)
def test_other_names_of_diffusers_are_read(parts, down, up, tmp_path):
    save_file(dict(zip((down, up), parts["unet"][UNET])), tmp_path / "a", {"format": "pt"})
    assert_equal(lora.read(tmp_path / "a", "--lora", registry.LORA_PARTS), {"unet": parts["unet"]})


def test_the_old_name_of_the_output_layer_is_read(parts, tmp_path):
    names = [
        f"mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.{side}.weight"
        for side in ("down", "up")
    ]
    save_file(dict(zip(names, parts["unet"][UNET])), tmp_path / "a", {"format": "pt"})
    assert list(lora.read(tmp_path / "a", "--lora", registry.LORA_PARTS)["unet"]) == [
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
    ]


def test_a_file_that_is_no_lora_is_refused(tmp_path, parts):
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(BadInput, match="--lora .*text: it can't be read"):
        lora.read(tmp_path / "text", "--lora", registry.LORA_PARTS)
    save_file({"conv_in.weight": np.ones(3)}, tmp_path / "model")
    with pytest.raises(BadInput, match="no LoRA of a known format; it holds conv_in.weight"):
        lora.read(tmp_path / "model", "--lora", registry.LORA_PARTS)
    save_file({f"unet.{UNET}.lora.down.weight": parts["unet"][UNET][0]}, tmp_path / "half")
    with pytest.raises(BadInput, match="only one of its two matrices"):
        lora.read(tmp_path / "half", "--lora", registry.LORA_PARTS)
    names = [f"unet.{UNET}.lora.{side}.weight" for side in ("down", "up")]
    save_file(dict(zip(names, (pair(8, 6, rank=2)[0], pair(8, 6, rank=3)[1]))), tmp_path / "odd")
    with pytest.raises(BadInput, match="do not fit each other"):
        lora.read(tmp_path / "odd", "--lora", registry.LORA_PARTS)
    for held in ({}, {f"unet.{UNET}.alpha": np.ones(1, np.float32)}):
        save_file(held, tmp_path / "nothing")
        with pytest.raises(BadInput, match="it holds no LoRA"):
            lora.read(tmp_path / "nothing", "--lora", registry.LORA_PARTS)
    with pytest.raises(BadInput, match="--lora .*: no LoRA, there is no"):
        lora.find_file(tmp_path, "--lora")


@pytest.mark.parametrize(
    "settings",
    ["[1]", "{", '{"unet.r": "two", "unet.lora_alpha": 1}', '{"unet.r": 0, "unet.lora_alpha": 1}', "[" * 100_000,
     '{"unet.r": 2, "unet.lora_alpha": 1, "unet.rank_pattern": {"(": 1}}'],
)  # fmt: skip
def test_unreadable_settings_of_newer_diffusers_are_refused(parts, tmp_path, settings):
    names = f"unet.{UNET}.lora_A.weight", f"unet.{UNET}.lora_B.weight"
    save_file(dict(zip(names, parts["unet"][UNET])), tmp_path / "a", {"lora_adapter_metadata": settings})
    with pytest.raises(BadInput, match="--lora .*a: its lora_adapter_metadata can't be read"):
        lora.read(tmp_path / "a", "--lora", registry.LORA_PARTS)


@pytest.mark.parametrize(
    "alpha, shape, named",
    [([1, 2], (2, 6), "the alpha or the rank of unet"), ([1], (2,), "neither a matrix nor a convolution")],
)
def test_tensors_of_wrong_shapes_are_refused(parts, tmp_path, alpha, shape, named):
    name = f"unet.{UNET}"
    save_file(
        {
            f"{name}.lora.down.weight": np.ones(shape, np.float32),
            f"{name}.lora.up.weight": parts["unet"][UNET][1],
            f"{name}.alpha": np.array(alpha, np.float32),
        },
        tmp_path / "a",
    )
    with pytest.raises(BadInput, match=f"--lora .*a: .*{named}"):
        lora.read(tmp_path / "a", "--lora", registry.LORA_PARTS)


def test_other_parts_have_their_own_names(parts, tmp_path):
    parts = {"transformer": parts["unet"], "text_encoder_2": parts["text_encoder"], "clip": parts["text_encoder"]}
    beginnings = {"": "transformer", "text_encoder_": "clip", "text_encoder_2.": "text_encoder_2", "clip.": "clip"}
    lora.write(tmp_path / "a", parts, "diffusers", {}, ["text_encoder_2", "clip"])
    names = load_file(tmp_path / "a")
    assert {f"transformer.{UNET}.lora.up.weight", f"clip.{TEXT}.lora_linear_layer.up.weight"} <= set(names)
    assert lora.read(tmp_path / "a", "--lora", beginnings).keys() == {"transformer", "text_encoder_2", "clip"}
    del beginnings[""]
    with pytest.raises(BadInput, match="--lora .*: no LoRA of a known format; it holds transformer.down_blocks"):
        lora.read(tmp_path / "a", "--lora", beginnings)
