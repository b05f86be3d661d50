"""DINO: the forward pass is torch's, on random weights that transformers 5.24 wrote with its own results."""

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from dreambooth.drawing.instruments import dino
from dreambooth.drawing.instruments.dino import Dino
from dreambooth.system.errors import BadInput

GENUINE = Path(__file__).parent / "genuine/dino"  # a ViT of two layers for 32 x 32 pixels, by torch 2.14
EXPECTED = np.load(GENUINE / "expected.npz")


@pytest.mark.parametrize("pixels, token", [("own", "own_token"), ("other", "other_token")])
def test_the_class_token_is_that_of_torch_at_its_own_size_and_at_another(pixels, token):
    found = Dino(str(GENUINE)).forward(paddle.to_tensor(EXPECTED[pixels])).numpy()
    np.testing.assert_allclose(found, EXPECTED[token], atol=1e-5)
    assert np.abs(EXPECTED[token]).max() > 0.5


def old_name(name):
    """The name of a weight in the files on the hub, which transformers 4 wrote."""
    for new, old in (
        ("layers.", "encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        name = name.replace(new, old)
    return name


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(GENUINE, tmp_path / "dino")
    return tmp_path / "dino"


def rewrite(folder, change):
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_the_older_names_are_read_too_and_a_head_does_not_count(folder, prefix):
    def older(weights):
        head = {"pooler.dense.weight": np.ones((24, 24), np.float32)}
        return {**{prefix + old_name(name): value for name, value in weights.items()}, **head}

    rewrite(folder, older)
    names = set(load_file(folder / "model.safetensors"))
    assert f"{prefix}encoder.layer.1.attention.attention.query.weight" in names
    found = Dino(str(folder)).forward(paddle.to_tensor(EXPECTED["own"])).numpy()
    np.testing.assert_allclose(found, EXPECTED["own_token"], atol=1e-5)


def test_a_picture_is_scaled_and_normalized_as_its_file_has_it():
    """Pillow and torchvision differ by one of 256 levels, which the normalization makes 0.0175."""
    found = dino._Processor(GENUINE).to_pixels(Image.fromarray(EXPECTED["picture"]))
    np.testing.assert_allclose(found, EXPECTED["pixels"][0], atol=0.018)
    assert np.abs(found - EXPECTED["pixels"][0]).mean() < 2e-3


@pytest.mark.parametrize(
    "settings, size",
    [
        ({}, (224, 224)),
        ({"do_resize": False}, (20, 30)),
        ({"size": {"height": 8, "width": 16}}, (8, 16)),
        ({"size": {"shortest_edge": 10}}, (10, 15)),
        ({"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, (8, 8)),
    ],
)
def test_the_sizes_of_a_file_are_those_of_the_pixels(tmp_path, settings, size):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    pixels = dino._Processor(tmp_path).to_pixels(Image.new("L", (30, 20), 255))
    assert pixels.shape == (3, *size) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, 0, 0], (1 - np.array(dino._MEAN)) / dino._STD, rtol=1e-5)


def test_vectors_have_length_1_and_depend_on_their_picture_alone():
    numbers = np.random.default_rng(1)
    pictures = [Image.fromarray(numbers.integers(0, 255, (40, 30, 3), np.uint8)) for _ in range(5)]
    model = Dino(str(GENUINE))
    rows = model.encode_pictures(pictures)
    assert rows.shape == (5, 24) and np.allclose(np.linalg.norm(rows, axis=1), 1)
    np.testing.assert_allclose(model.encode_pictures(pictures[::-1], batch_size=2), rows[::-1], atol=1e-5)


def spoil(folder, fault):
    config = json.loads((folder / "config.json").read_text())
    if isinstance(fault, dict):
        (folder / "config.json").write_text(json.dumps({**config, **fault}))
        return
    if fault.startswith("processor "):
        (folder / "preprocessor_config.json").write_text(fault.partition(" ")[2])
    if fault in ("layers.1.layernorm_before.bias", "layers.0.attention.q_proj.bias"):
        rewrite(folder, lambda weights: {k: v for k, v in weights.items() if k != fault})
    if fault.startswith("odd "):
        rewrite(folder, lambda weights: {**weights, fault.partition(" ")[2]: np.ones((1, 7, 24), np.float32)})
    if fault == "nan":
        rewrite(folder, lambda weights: {k: v * np.nan for k, v in weights.items()})
    if fault == "kind":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    elif fault == "json":
        (folder / "config.json").write_text("{")
    elif fault == "no weights":
        (folder / "model.safetensors").unlink()
    elif fault == "missing":
        rewrite(folder, lambda weights: {k: v for k, v in weights.items() if k != "layernorm.weight"})
    elif fault == "shape":
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    elif fault == "layers":
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    elif fault == "cut":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    "fault, said",
    [
        ({"num_attention_heads": 0}, "its num_attention_heads is 0"),
        ({"num_attention_heads": 5}, "it can't be loaded"),
        ({"num_hidden_layers": -1}, "its num_hidden_layers is -1"),
        ({"patch_size": 3}, "projection.weight has the shape"),
        ({"patch_size": float("inf")}, "its patch_size is inf"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": float("nan")}, "it can't be loaded"),
        ("processor " + "[" * 200_000, "it can't be loaded"),
        ('processor {"size": 0}', "it can't be loaded"),
        ('processor {"size": {"width": 1}}', "'height' is missing"),
        ('processor {"size": 32, "image_std": [0, 0, 0]}', "its vectors are no numbers"),
        ("layers.1.layernorm_before.bias", "layernorm_before.bias' is missing"),
        ("layers.0.attention.q_proj.bias", "query.bias' is missing"),
        ("odd embeddings.position_embeddings", "position_embeddings is not that of a square"),
        ("odd embeddings.patch_embeddings.projection.weight", "projection.weight has the shape"),
        ("nan", "its vectors are no numbers"),
        ("kind", "model_type is 'clip'"),
        ("json", "Expecting"),
        ("no weights", "neither model.safetensors nor pytorch_model.bin"),
        ("missing", "'layernorm.weight' is missing"),
        ("shape", "intermediate.dense.weight has the shape"),
        ("layers", "is missing"),
        ("cut", "model.safetensors"),
    ],
)
def test_what_is_no_dino_is_refused_in_one_line(folder, fault, said):
    spoil(folder, fault)
    with pytest.raises(BadInput, match=said) as caught:
        Dino(str(folder))
    assert str(caught.value).startswith("--dino_model_path ") and "\n" not in str(caught.value)


def test_a_name_that_can_not_be_fetched_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        BadInput, match="--dino_model_path facebook/none: there is no such folder here, and it could not"
    ):
        Dino("facebook/none")
