"""Edges: where a picture changes, one pixel wide, in white on black."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dreambooth.drawing.inputs import edges


def edges_of(values):
    found = edges.draw_edges(Image.fromarray(np.asarray(values, np.uint8)))
    assert found.mode == "RGB"
    levels = np.asarray(found)
    assert (levels == levels[..., :1]).all() and set(np.unique(levels)) <= {0, 255}
    return levels[..., 0] == 255


@pytest.mark.parametrize("turn", range(4))
def test_a_step_is_a_line_one_pixel_wide(turn):
    step = np.zeros((12, 12))
    step[:, 6:] = 200
    found = np.rot90(edges_of(np.rot90(step, turn)), -turn)
    assert (found.sum(axis=1) == 1).all() and found[:, 5:7].any(axis=1).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_slanting_step_is_one_line_too(flip):
    rows, columns = np.indices((16, 16))
    found = edges_of(200 * (rows + (15 - columns if flip else columns) > 15))
    assert (found.sum(axis=1) <= 2).all() and found.sum() >= 14


def test_grey_is_without_edges_and_so_is_a_slow_change():
    assert not edges_of(np.full((10, 14), 99)).any()
    assert not edges_of(np.tile(np.arange(20) * 10, (10, 1))).any()


def test_a_weak_edge_counts_beside_a_strong_one_alone():
    """A step of 40 has a gradient of 160, between both thresholds."""
    weak = np.zeros((12, 12))
    weak[:, 6:] = 40
    assert not edges_of(weak).any()
    weak[:4, 6:] = 200
    assert edges_of(weak)[:, 5:7].any(axis=1).all()


def test_a_picture_in_colour_has_the_edges_of_its_grey():
    picture = Image.new("RGB", (24, 20), "navy")
    ImageDraw.Draw(picture).ellipse((6, 5, 17, 14), fill="orange")
    found = edges.draw_edges(picture)
    assert found.size == picture.size and np.array_equal(found, edges.draw_edges(picture.convert("L")))
    assert 20 < (np.asarray(found)[..., 0] > 0).sum() < 60


def test_a_picture_of_one_pixel_has_none():
    assert not edges_of([[7]]).any()
