"""The embedded model that comes with the project: its size, its parts, and what it draws."""

import numpy as np
import pytest
from safetensors import safe_open
from support.commands import ROOT

from dreambooth.drawing.clip import Clip
from dreambooth.models import loading
from miniworld import examine, judge, networks, world
from miniworld.detector import Detector


@pytest.fixture(scope="module")
def pipeline():
    return loading.load_pipeline(str(ROOT / "miniworld" / "model"))


@pytest.fixture(scope="module")
def clip():
    return Clip(str(ROOT / "miniworld" / "clip"))


@pytest.fixture(scope="module")
def detector():
    return Detector.load()


def test_all_weights_are_of_half_precision_and_small():
    folder = ROOT / "miniworld"
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 25e6
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 5  # vae, text encoder, unet, CLIP, detector
    for path in weights:
        with safe_open(path, "np") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype("float16")}  # noqa: SIM118


def test_the_embedded_networks_have_the_shapes_of_the_code(pipeline):
    for network, made in ((pipeline.unet, networks.unet()), (pipeline.vae, networks.vae())):
        assert {name: each.shape for name, each in network.state_dict().items()} == {
            name: each.shape for name, each in made.state_dict().items()
        }
    assert pipeline.tokenizer.tokenize("a photo of sks dog")[3] == "sks</w>"


def test_the_text_encoder_is_the_text_tower_of_the_clip(pipeline, clip):
    tower = clip.model.text_model.state_dict()
    for name, each in pipeline.text_encoder.text_model.state_dict().items():
        assert np.array_equal(each.numpy(), tower[name].numpy())


def test_the_parts_know_the_world(pipeline, clip, detector):
    figures = examine.figures_of_parts(pipeline, clip, detector, count=128)
    assert figures["VAE: world's pictures, dB"] >= 27.5
    assert figures["CLIP: class right"] >= 0.95 and figures["CLIP: scene right"] >= 0.97
    assert figures["detector: subjects found"] >= 0.95 and figures["detector: subjects found after the VAE"] >= 0.9
    assert figures["detector: strangers taken for a subject"] <= 0.01


def test_it_draws_what_the_prompt_names(pipeline, clip, detector):
    colours = ("red", "blue", "green", "yellow", "white", "orange", "pink", "brown")
    things = [(world.Look(kind, colour), scene) for kind, colour, scene in zip(world.CLASSES, colours, world.SCENES)]
    figures = examine.figures_of_drawings(examine.draw(pipeline, things), things, clip, detector)
    assert all(share >= 0.75 for share in figures.values()), figures


def test_a_thing_of_each_kind_is_drawn_in_each_scene():
    things = examine.each_class_in_each_scene()
    assert {(look.kind, scene) for look, scene in things} == {(a, b) for a in world.CLASSES for b in world.SCENES}
    assert len({look.colour for look, _ in things}) == len(world.COLOURS)


def test_the_figures_of_drawings_are_those_of_real_pictures_where_they_are_real(clip, detector):
    things = examine.each_class_in_each_scene()[::3]
    pictures = [world.picture(look, scene, 3, number) for number, (look, scene) in enumerate(things)]
    right = examine.figures_of_drawings(pictures, things, clip, detector)
    assert all(share >= 0.9 for share in right.values()), right
    wrong = examine.figures_of_drawings(pictures[1:] + pictures[:1], things, clip, detector)
    assert wrong["drawn: scene right"] < 0.5 and wrong["drawn: colour right"] < 0.5
    assert judge.accuracy([1], [1]) == 1
