"""The embedded model: the quality of its parts and of its drawings."""

import numpy as np
import pytest
from support.families import load_family

from dreambooth.drawing.instruments.clip import Clip
from miniworld import examine, judge, networks, paths, world
from miniworld.detector import Detector
from miniworld.things import Look


@pytest.fixture(scope="module")
def family():
    return load_family(paths.MODEL)


@pytest.fixture(scope="module")
def pipeline(family):
    return family.pipeline


@pytest.fixture(scope="module")
def clip():
    return Clip(str(paths.CLIP))


@pytest.fixture(scope="module")
def detector():
    return Detector.load()


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


@pytest.mark.slow
def test_the_parts_reach_their_figures(pipeline, clip, detector):
    figures = examine.figures_of_parts(pipeline.vae, clip, detector, count=128)
    assert figures["VAE: world's pictures, dB"] >= 27.5
    assert figures["CLIP: class right"] >= 0.95 and figures["CLIP: scene right"] >= 0.97
    assert figures["detector: subjects found"] >= 0.95 and figures["detector: subjects found after the VAE"] >= 0.9
    assert figures["detector: strangers taken for a subject"] <= 0.01


@pytest.mark.slow
def test_the_drawings_match_their_prompts(family, clip, detector):
    colours = ("red", "blue", "green", "yellow", "white", "orange", "pink", "brown")
    things = [(Look(kind, colour), scene) for kind, colour, scene in zip(world.CLASSES, colours, world.SCENES)]
    figures = examine.figures_of_drawings(examine.draw(family, things), things, clip, detector)
    assert all(share >= 0.75 for share in figures.values()), figures


def test_the_sheet_has_a_thing_of_each_class_in_each_scene():
    things = examine.each_class_in_each_scene()
    assert {(look.kind, scene) for look, scene in things} == {(a, b) for a in world.CLASSES for b in world.SCENES}
    assert len({look.colour for look, _ in things}) == len(world.COLOURS)


def test_right_pictures_have_high_figures_and_exchanged_pictures_low_ones(clip, detector):
    things = examine.each_class_in_each_scene()[::3]
    pictures = [world.picture(look, scene, 3, number) for number, (look, scene) in enumerate(things)]
    right = examine.figures_of_drawings(pictures, things, clip, detector)
    assert all(share >= 0.9 for share in right.values()), right
    wrong = examine.figures_of_drawings(pictures[1:] + pictures[:1], things, clip, detector)
    assert wrong["drawn: scene right"] < 0.5 and wrong["drawn: colour right"] < 0.5
    assert judge.accuracy([1], [1]) == 1
