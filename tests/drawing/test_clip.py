"""CLIP as a measuring instrument: unit vectors that depend on the picture, or on the prompt, and on nothing else."""

import shutil

import numpy as np
import paddle
import pytest
from PIL import Image
from support.clips import build_clip

from dreambooth.drawing.instruments import clip as drawing_clip
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.system.errors import BadInput
from miniworld import dataset, networks, training, world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip") / "small")


@pytest.fixture(scope="module")
def clip(folder):
    return Clip(str(folder))


@pytest.fixture(scope="module")
def pictures():
    return [world.picture(*world.thing(0, number), 0, number) for number in range(7)]


PROMPTS = ["a photo of a dog", "an orange cat at night", "", "a zebra", "雪地上的狗"]


def test_pictures_and_prompts_become_unit_vectors_of_the_same_space(clip, pictures):
    for rows, count in ((clip.encode_pictures(pictures), 7), (clip.encode_prompts(PROMPTS), 5)):
        assert rows.shape == (count, networks.WIDTH) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.ones(count), rtol=1e-5)
        assert len(np.unique(rows.round(4), axis=0)) == count


def test_normalized_rows_have_length_1():
    np.testing.assert_allclose(drawing_clip._normalize(np.array([[3.0, 4.0], [0, -2]])), [[0.6, 0.8], [0, -1]])


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_batch_size_does_not_change_the_vectors(clip, pictures, batch_size):
    np.testing.assert_allclose(clip.encode_pictures(pictures, batch_size), clip.encode_pictures(pictures), atol=1e-5)


def test_each_row_depends_on_its_picture_only(clip, pictures):
    rows = clip.encode_pictures(pictures, batch_size=3)
    for picture, row in zip(pictures, rows):
        np.testing.assert_allclose(clip.encode_pictures([picture])[0], row, atol=1e-5)
    np.testing.assert_allclose(clip.encode_pictures(pictures[::-1]), rows[::-1], atol=1e-5)


def test_each_row_depends_on_its_prompt_only(clip):
    rows = clip.encode_prompts(PROMPTS)
    for prompt, row in zip(PROMPTS, rows):
        np.testing.assert_allclose(clip.encode_prompts([prompt])[0], row, atol=1e-5)


def test_a_picture_is_encoded_as_in_training(clip, pictures):
    """From -1 to 1, red first."""
    with paddle.no_grad():
        pixels = training.scale_pixels(np.stack([np.asarray(picture) for picture in pictures]))
        seen = clip.model.get_image_features(pixels)
    np.testing.assert_allclose(clip.encode_pictures(pictures), drawing_clip._normalize(seen.numpy()), atol=1e-4)


def test_a_prompt_is_encoded_as_in_training(clip):
    with paddle.no_grad():
        read = clip.model.get_text_features(dataset.token_ids(clip.tokenizer, PROMPTS))
    np.testing.assert_allclose(clip.encode_prompts(PROMPTS), drawing_clip._normalize(read.numpy()), atol=1e-5)


def test_pictures_of_other_sizes_are_resized(clip, pictures):
    others = [pictures[0].resize((128, 128), Image.NEAREST), Image.new("RGB", (30, 90), "red"), pictures[1]]
    rows = clip.encode_pictures(others)
    assert rows.shape == (3, networks.WIDTH) and rows[0] @ clip.encode_pictures(pictures[:1])[0] > 0.99
    np.testing.assert_allclose(rows[2], clip.encode_pictures([pictures[1]])[0], atol=1e-5)
    middle = Image.new("RGB", (30, 30), "red")  # of a picture that is not square, the middle is seen
    np.testing.assert_allclose(rows[1], clip.encode_pictures([middle])[0], atol=1e-4)


def test_a_long_prompt_is_truncated(clip):
    fits = " ".join(["dog"] * (networks.TOKENS - 2))
    rows = clip.encode_prompts([fits, f"{fits} at night with a red hat", f"cat {fits}"])
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5)
    assert np.abs(rows[2] - rows[0]).max() > 1e-4


def test_two_loads_of_a_folder_are_equal(clip, folder, pictures):
    again = Clip(str(folder))
    np.testing.assert_array_equal(again.encode_pictures(pictures), clip.encode_pictures(pictures))
    np.testing.assert_array_equal(again.encode_prompts(PROMPTS), clip.encode_prompts(PROMPTS))


def test_a_model_in_half_precision_computes_in_single(clip, pictures, tmp_path):
    half = Clip(str(build_clip(tmp_path / "half", half=True)))
    assert {each.dtype for each in half.model.parameters()} == {paddle.float32}
    np.testing.assert_allclose(half.encode_pictures(pictures), clip.encode_pictures(pictures), atol=0.01)


def refused(path, flag="--clip_model_path"):
    with pytest.raises(BadInput, match=f"^{flag} {path}") as caught:
        Clip(str(path), *([] if flag == "--clip_model_path" else [flag]))
    assert "\n" not in str(caught.value)  # bad input is one line
    return str(caught.value)


def test_an_empty_folder_a_pipeline_and_a_folder_that_is_not_there_are_refused(twin, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(tmp_path / "empty")
    assert "config.json" in refused(twin)
    refused(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_part_of_a_pipeline_is_no_clip(twin, part):
    refused(twin / part)


def test_an_error_names_the_callers_flag(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", flag="--judge")


@pytest.mark.parametrize("lost", ["vision_model.", "text_model.encoder.layers.1.", "visual_projection"])
def test_files_that_lack_weights_are_refused(folder, tmp_path, lost):
    shutil.copytree(folder, tmp_path / "broken")
    [path] = (tmp_path / "broken").glob("*.pdparams")
    whole = paddle.load(str(path))
    kept = {name: value for name, value in whole.items() if not name.startswith(lost)}
    assert 0 < len(kept) < len(whole)
    paddle.save(kept, str(path))
    refused(tmp_path / "broken")


def test_a_model_in_safetensors_is_equal(clip, folder, pictures, tmp_path):
    """As other people's are; the scale of its answers is a number that is no list."""
    clip.model.save_pretrained(str(tmp_path / "safe"), safe_serialization=True)
    assert not list((tmp_path / "safe").glob("*.pdparams"))
    for path in folder.iterdir():
        if path.suffix != ".pdparams":
            shutil.copy(path, tmp_path / "safe")
    again = Clip(str(tmp_path / "safe"))
    np.testing.assert_array_equal(again.encode_pictures(pictures), clip.encode_pictures(pictures))
    np.testing.assert_array_equal(again.encode_prompts(PROMPTS), clip.encode_prompts(PROMPTS))


@pytest.mark.parametrize("lost", ["vocab.json", "preprocessor_config.json", "model_state.pdparams"])
def test_a_clip_without_one_of_its_files_is_refused(folder, tmp_path, lost):
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / lost).unlink()
    refused(tmp_path / "broken")
