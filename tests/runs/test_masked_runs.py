"""Runs with masks and padding: exact however they are split, and nothing where every place counts."""

import pytest
from PIL import Image
from support.commands import command_line, launch, train
from support.pictures import draw_pictures
from support.weights import assert_same, mean_difference

from dreambooth.system.errors import BadInput


def masks_for(folder, white):
    """A mask for each of five pictures of 40 x 40, white inside a box."""
    folder.mkdir()
    for number in range(5):
        grey = Image.new("L", (40, 40))
        grey.paste(255, white)
        grey.save(folder / f"{number}.png")
    return folder


def test_a_white_mask_and_the_padding_of_squares_change_nothing(flags, tmp_path):
    white = masks_for(tmp_path / "white", (0, 0, 40, 40))
    train(flags(output_dir=tmp_path / "plain"))
    train(flags(output_dir=tmp_path / "masked", mask_dir=white))
    train(flags(output_dir=tmp_path / "padded", resize_mode="pad"))
    for name in ("masked", "padded"):
        assert_same(tmp_path / "plain/unet", tmp_path / name / "unet")


def test_an_update_with_masks_is_the_same_however_it_is_split_and_resumed(flags, class_pictures, tmp_path):
    common = dict(
        mask_dir=masks_for(tmp_path / "masks", (10, 5, 30, 40)),
        random_flip=True,
        max_train_steps=3,
        with_prior_preservation=True,
        class_data_dir=class_pictures,
        class_prompt="a photo of a dog",
        num_class_images=4,
    )

    def run(name, **changes):
        train(flags(output_dir=tmp_path / name, **{**common, **changes}))
        return tmp_path / name / "unet"

    whole, other = run("whole", train_batch_size=4), run("other", train_batch_size=4, seed=1)
    unmasked = run("unmasked", train_batch_size=4, mask_dir=None)
    split = run("split", train_batch_size=2, gradient_accumulation_steps=2, cache_latents=None, no_cache_latents=True)
    done = launch(tmp_path, "train_dreambooth.py", *flags(output_dir=tmp_path / "two", train_batch_size=2, **common))
    assert done.returncode == 0, done.stdout + done.stderr
    floor = mean_difference(whole, other)
    for each in (split, tmp_path / "two/unet"):
        assert mean_difference(whole, each) < 1e-2 * floor
    assert mean_difference(whole, unmasked) > 0.05 * floor
    run("parts", train_batch_size=4, max_train_steps=1, last_checkpoint=True, no_last_checkpoint=None)
    assert_same(whole, run("parts", train_batch_size=4, resume_from_checkpoint="latest"))


def test_other_masks_are_another_run(flags, tmp_path):
    masks = masks_for(tmp_path / "masks", (10, 5, 30, 40))
    train(flags(save_steps=1, mask_dir=masks))
    Image.new("L", (40, 40), 255).save(masks / "3.png")
    with pytest.raises(BadInput, match="the masks' hashes"):
        train(flags(max_train_steps=4, mask_dir=masks, resume_from_checkpoint="latest"))


@pytest.mark.parametrize("changes", [dict(use_alpha=True), dict(resize_mode="pad"), dict(resize_mode="buckets")])
def test_a_model_without_places_refuses_masks(unidiffuser_twin, tmp_path, changes):
    folder = draw_pictures(tmp_path / "dog", 1)
    with Image.open(next(folder.iterdir())) as image:
        image.convert("RGBA").save(folder / "0.png")
    line = command_line(unidiffuser_twin, folder, tmp_path / "out", **changes)
    with pytest.raises(BadInput, match="this model takes whole pictures of one size; leave it out"):
        train(line)


def test_pictures_of_another_shape_are_padded(flags, tmp_path, capsys):
    folder = draw_pictures(tmp_path / "wide", 3, size=(64, 32))
    train(flags(instance_data_dir=folder, resize_mode="pad"))
    said = capsys.readouterr()
    assert "3 in " in said.out and "at 32 x 32, padded" in said.out and "squeezed" not in said.err
