"""Runs with captions: exact however they are split and resumed, and other captions are another run."""

import json

import pytest
from support.commands import launch, train
from support.pictures import draw_pictures
from support.slowly import mostly_slow
from support.weights import assert_same, largest_difference, mean_difference

from dreambooth.system.errors import BadInput

COMMON = dict(caption_dropout=0.4, subject="sks dog", max_train_steps=3, random_flip=True)


@pytest.fixture
def captioned(flags, tmp_path):
    """The command line of a run on five pictures with captions, two of which are the same."""
    folder = draw_pictures(tmp_path / "dog", 5)
    scenes = ["in snow", "at night", "in snow", "on grass", "asleep"]
    rows = [
        {"file_name": path.name, "text": f"a {{}} {scene}"} for path, scene in zip(sorted(folder.iterdir()), scenes)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return lambda **changes: flags(**{"instance_data_dir": folder, **COMMON, **changes})


@pytest.mark.parametrize("text_encoder", mostly_slow([True, None]))
def test_an_update_is_the_same_however_it_is_split(captioned, tmp_path, text_encoder):
    def run(name, **changes):
        train(captioned(output_dir=tmp_path / name, train_text_encoder=text_encoder, **changes))
        return tmp_path / name / "unet"

    whole, other = run("whole", train_batch_size=4), run("other", train_batch_size=4, seed=1)
    off = run("off", train_batch_size=4, captions="off", caption_dropout=0)
    split = run("split", train_batch_size=2, gradient_accumulation_steps=2)
    line = captioned(output_dir=tmp_path / "processes", train_batch_size=2, train_text_encoder=text_encoder)
    done = launch(tmp_path, "train_dreambooth.py", *line)
    assert done.returncode == 0, done.stdout + done.stderr
    floor = mean_difference(whole, other)
    for each in (split, tmp_path / "processes/unet"):
        assert mean_difference(whole, each) < 1e-2 * floor
    assert mean_difference(whole, off) > 0.1 * floor


def test_a_resumed_run_is_bit_identical(captioned, tmp_path):
    train(captioned(output_dir=tmp_path / "whole"))
    train(captioned(output_dir=tmp_path / "parts", max_train_steps=1, last_checkpoint=True, no_last_checkpoint=None))
    train(captioned(output_dir=tmp_path / "parts", resume_from_checkpoint="latest"))
    assert_same(tmp_path / "whole/unet", tmp_path / "parts/unet")


def test_other_captions_are_another_run(captioned, tmp_path):
    train(captioned(save_steps=1))
    record = json.loads((tmp_path / "out/training_args.json").read_text())
    texts = [each["caption"] for each in record["concepts"][0]["pictures"]]
    assert texts == [f"a sks dog {scene}" for scene in ("in snow", "at night", "in snow", "on grass", "asleep")]
    longer = captioned(max_train_steps=4, resume_from_checkpoint="latest")
    with pytest.raises(BadInput, match="the pictures' captions: .* then, None now"):
        train([*longer, "--captions", "off"])
    train(longer)


def test_captions_teach(captioned, tmp_path):
    """A caption reaches the network: with other captions, another network results."""
    train(captioned(output_dir=tmp_path / "one", caption_dropout=0, max_train_steps=5))
    folder = tmp_path / "dog"
    lines = (folder / "metadata.jsonl").read_text().replace("in snow", "in the rain")
    (folder / "metadata.jsonl").write_text(lines)
    train(captioned(output_dir=tmp_path / "other", caption_dropout=0, max_train_steps=5))
    assert largest_difference(tmp_path / "one/unet", tmp_path / "other/unet") > 1e-5
