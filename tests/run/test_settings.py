"""The settings of infer.py that a grid takes apart."""

import pytest
from PIL import Image

from dreambooth.drawing.inputs.starts import Start
from dreambooth.run.drawings.settings import InferSettings
from dreambooth.system.errors import BadInput


def settings(**changes):
    return InferSettings(**{"model_path": "hub/name", "prompt": ("a dog",), **changes})


def test_without_an_axis_there_is_the_sheet_of_all_pictures():
    assert settings().sides is None and settings(grid=()).sides is None
    assert [axis.name for axis in settings(grid=("seed=1,2",)).sides] == ["prompt", "seed"]


def test_a_picture_of_a_grid_has_the_settings_of_its_place():
    whole = settings(grid=("seed=1,2", "guidance=3"), prompt=("a dog",), height=64, negative_prompt="blurry")
    own = whole.like({**whole.by_axis, "seed": 2, "guidance": 3.0, "steps": 7, "checkpoint": "other", "prompt": "b"})
    assert (own.seed, own.guidance_scale, own.num_inference_steps) == (2, 3.0, 7)
    assert (own.model_path, own.prompt, own.height, own.negative_prompt) == ("other", ("b",), 64, "blurry")
    assert own.grid is None


def test_what_else_decides_on_a_picture_is_told():
    plain = settings().beside_axes(None)
    for changes in (dict(negative_prompt="x"), dict(width=64), dict(vae_tiling=True), dict(mixed_precision="bf16")):
        assert settings(**changes).beside_axes(None) != plain
    red, blue = (Start(Image.new("RGB", (4, 4), colour)) for colour in ("red", "blue"))
    assert settings().beside_axes(red) != settings().beside_axes(blue)


@pytest.mark.parametrize(
    "changes",
    [dict(num_images=2), dict(upscaler="x"), dict(controlnet="x", control_image=("a.png",))],
)
def test_a_grid_refuses_what_it_has_no_place_for(changes):
    with pytest.raises(BadInput, match="--grid"):
        settings(grid=("seed=1,2",), **changes)
    settings(grid=(), **changes)
