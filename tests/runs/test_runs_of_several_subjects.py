"""Runs on several subjects, in pictures of several shapes: exact however they are split, resumed and repeated."""

import json
import shutil

import pytest
from PIL import Image
from support.commands import launch, train
from support.pictures import draw_pictures
from support.slowly import mostly_slow
from support.weights import assert_same, mean_difference

from dreambooth.system.errors import BadInput

PRIOR = dict(with_prior_preservation=True, num_class_images=3)
SHAPES = dict(resolution=64, resize_mode="buckets", random_crop=True, random_flip=True)
SUBJECT = ("instance_data_dir", "instance_prompt")


@pytest.fixture
def subjects(tmp_path):
    """Two dogs and a car, in pictures of three shapes; the first dog has captions, and the car a mask."""
    for number, size in enumerate([(40, 40), (70, 40), (40, 70)]):
        draw_pictures(tmp_path / "one", 1, size, first=number)
        draw_pictures(tmp_path / "other", 1, size, first=number + 5)
        (tmp_path / f"one/{number}.txt").write_text(f"a photo of {{}} in scene {number}")
    draw_pictures(tmp_path / "car", 2, (50, 40), first=9)
    (tmp_path / "masks").mkdir()
    for number in (9, 10):
        mask = Image.new("L", (50, 40))
        mask.paste(255, (10, 5, 30, 40))
        mask.save(tmp_path / f"masks/{number}.png")
    return [
        dict(instance_data_dir=str(tmp_path / "one"), instance_prompt="a photo of {}", subject="sks dog",
             class_prompt="a photo of a dog", weight=2),
        dict(instance_data_dir=str(tmp_path / "other"), instance_prompt="a photo of zwx dog",
             class_prompt="a photo of a dog"),
        dict(instance_data_dir=str(tmp_path / "car"), instance_prompt="a photo of gdz car",
             class_prompt="a photo of a car", num_class_images=2, mask_dir=str(tmp_path / "masks")),
    ]  # fmt: skip


@pytest.fixture
def command(flags, subjects, tmp_path):
    (tmp_path / "concepts.json").write_text(json.dumps(subjects))
    without = dict.fromkeys(SUBJECT)
    of_class = dict(class_data_dir=tmp_path / "class", **PRIOR)
    common = dict(concepts=tmp_path / "concepts.json", max_train_steps=3, **of_class, **SHAPES)
    return lambda **changes: flags(**{**without, **common, **changes})


@pytest.mark.parametrize("cached", mostly_slow([True, False]))
def test_an_update_is_the_same_however_it_is_split(command, tmp_path, cached):
    own = {} if cached else dict(no_cache_latents=True, color_jitter=0.1)

    def run(name, **changes):
        train(command(output_dir=tmp_path / name, **own, **changes))
        return tmp_path / name / "unet"

    whole, another = run("whole", train_batch_size=4), run("another", train_batch_size=4, seed=1)
    split = run("split", train_batch_size=2, gradient_accumulation_steps=2)
    done = launch(
        tmp_path, "train_dreambooth.py", *command(output_dir=tmp_path / "processes", train_batch_size=2, **own)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    floor = mean_difference(whole, another)
    for each in (split, tmp_path / "processes/unet"):
        assert mean_difference(whole, each) < 1e-2 * floor


def test_a_run_resumed_or_repeated_from_its_record_is_bit_identical(command, tmp_path):
    train(command(output_dir=tmp_path / "whole"))
    train(command(output_dir=tmp_path / "parts", max_train_steps=1, last_checkpoint=True, no_last_checkpoint=None))
    train(command(output_dir=tmp_path / "parts", resume_from_checkpoint="latest"))
    assert_same(tmp_path / "whole/unet", tmp_path / "parts/unet")
    (tmp_path / "concepts.json").unlink()  # the record has the list itself
    train(["--config", str(tmp_path / "whole/training_args.json"), "--output_dir", str(tmp_path / "again")])
    assert_same(tmp_path / "whole/unet", tmp_path / "again/unet")


def test_a_list_of_one_subject_is_the_same_run_as_its_flags(flags, command, subjects, tmp_path):
    one = {**subjects[1], "weight": 3, "class_data_dir": str(tmp_path / "class")}
    (tmp_path / "concepts.json").write_text(json.dumps([one]))
    train(command(output_dir=tmp_path / "listed"))
    one.pop("weight")
    train(command(output_dir=tmp_path / "flags", concepts=None, **one))
    assert_same(tmp_path / "listed/unet", tmp_path / "flags/unet")


def test_subjects_of_one_class_share_its_pictures_and_all_are_recorded(command, tmp_path, capsys):
    train(command())
    drawn = sorted((tmp_path / "class").iterdir())
    assert [len(list(each.iterdir())) for each in drawn] == [2, 3] and drawn[0].name.startswith("a-photo-of-a-car")
    said = capsys.readouterr().out
    assert "pictures  8 of 3 subjects, at 64 x 64, cropped to 4 shapes of that area, 2 with a mask" in said
    assert said.count("subject   ") == 3 and ", 50% of the examples" in said and said.count("class     ") == 2
    record = json.loads((tmp_path / "out/training_args.json").read_text())
    assert [concept["prompt"] for concept in record["concepts"]] == [
        "a photo of sks dog",
        "a photo of zwx dog",
        "a photo of gdz car",
    ]
    assert record["concepts"][0]["class_pictures"] == record["concepts"][1]["class_pictures"]
    assert [len(concept["class_pictures"]) for concept in record["concepts"]] == [3, 3, 2]
    assert record["concepts"][0]["pictures"][0]["caption"] == "a photo of sks dog in scene 0"
    card = (tmp_path / "out/README.md").read_text()
    assert "taught 3 subjects" in card and "a photo of zwx dog" in card and "2 pictures of" in card


def test_another_list_is_another_run(command, subjects, tmp_path):
    train(command(save_steps=1))
    subjects[0]["weight"] = 1
    (tmp_path / "concepts.json").write_text(json.dumps(subjects))
    with pytest.raises(BadInput, match=r"the run would go on differently \(subject 1, weight: 2.0 then, 1.0 now\)"):
        train(command(max_train_steps=4, resume_from_checkpoint="latest"))
    (tmp_path / "concepts.json").write_text(json.dumps(subjects[:2]))
    with pytest.raises(BadInput, match="it holds another run .*instance_prompt: .*gdz car.* then"):
        train(command())


def test_epochs_count_the_examples_of_all_subjects(command, tmp_path, capsys):
    train(command(max_train_steps=None, num_train_epochs=2, with_prior_preservation=None, dry_run=True))
    # 3 pictures of the second dog in a quarter of the examples
    assert "steps     24 updates (batch 1 x accumulation 1), 2 epochs" in capsys.readouterr().out


def test_a_dry_run_shows_the_shape_of_every_picture(command, tmp_path, capsys):
    train(command(dry_run=True, sheet=tmp_path / "sheet.png"))
    said = capsys.readouterr().out
    assert f"picture   {tmp_path}/one/1.png: 70 x 40 to 80 x 48, 5% cut off" in said
    assert f"picture   {tmp_path}/car/9.png: 50 x 40 to 72 x 56, 3% cut off" in said and said.count("picture   ") == 8
    assert "concepts 3 subjects" in said and (tmp_path / "sheet.png").is_file()


def test_a_class_with_pictures_of_its_own_is_not_shared_with_another_class(command, tmp_path):
    draw_pictures(tmp_path / "class", 2)
    with pytest.raises(BadInput, match="0.png lies there, and more than one class has the folder"):
        train(command())


def test_subjects_with_one_identifier_are_named(command, subjects, tmp_path, capfd):
    subjects[1]["instance_prompt"] = "a painting of sks dog"
    (tmp_path / "concepts.json").write_text(json.dumps(subjects))
    train(command(dry_run=True))
    assert 'have one identifier, "sks": the subjects would mix' in capfd.readouterr().err


def test_class_pictures_are_drawn_of_the_captions_and_train_with_them(command, subjects, tmp_path, capsys):
    (tmp_path / "concepts.json").write_text(json.dumps(subjects[:1]))
    train(command(class_prompts_from_captions=True))
    [folder] = (tmp_path / "class").iterdir()
    prompts = {}
    for path in folder.iterdir():
        with Image.open(path) as image:
            prompts[int(path.name.split("-")[0])] = image.info["prompt"]
    expected = [f"a photo of a dog in scene {number}" for number in range(3)]
    assert [prompts[number] for number in range(3)] == expected
    record = json.loads((tmp_path / "out/training_args.json").read_text())
    assert [each["caption"] for each in record["concepts"][0]["class_pictures"]] == expected
    assert "drawn of 3 prompts from captions" in capsys.readouterr().out
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    train(command(class_prompts_from_captions=True))  # those that are there
    assert_same(tmp_path / "before/unet", tmp_path / "out/unet")


def test_masks_that_move_to_another_subject_are_another_run(command, subjects, tmp_path):
    own = {"mask_dir": subjects[2].pop("mask_dir")}
    for number, folder in ((9, "car"), (10, "car")):
        shutil.copy(tmp_path / folder / f"{number}.png", tmp_path / "masks" / f"{number}.png")
    for listed, settings in ((0, {}), (1, dict(max_train_steps=4, resume_from_checkpoint="latest"))):
        for path in (tmp_path / ("one", "other")[listed]).glob("*.png"):
            shutil.copy(path, tmp_path / "masks" / path.name)
        several = [{**each, **(own if number == listed else {})} for number, each in enumerate(subjects)]
        (tmp_path / "concepts.json").write_text(json.dumps(several))
        if not listed:
            train(command(save_steps=1, **settings))
            continue
        with pytest.raises(BadInput, match="the masks' hashes: "):
            train(command(**settings))


def captions_of_class(folder):
    record = json.loads((folder / "training_args.json").read_text())
    return [each["caption"] for each in record["concepts"][0]["class_pictures"] if "caption" in each]


def test_ones_own_class_pictures_train_with_their_captions(command, subjects, tmp_path):
    (tmp_path / "concepts.json").write_text(json.dumps(subjects[:1]))
    draw_pictures(tmp_path / "class", 3)
    for number in range(3):
        (tmp_path / f"class/{number}.txt").write_text(f"a dog of kind {number}")
    settings = dict(save_steps=1, last_checkpoint=True, no_last_checkpoint=None)
    train(command(**settings))  # nothing of an earlier version changes where the flag is not given
    assert not any(map(captions_of_class, [tmp_path / "out"]))
    train(command(class_captions="txt", overwrite=True, **settings))
    record = json.loads((tmp_path / "out/training_args.json").read_text())
    captions = [each["caption"] for each in record["concepts"][0]["class_pictures"]]
    assert captions == [f"a dog of kind {number}" for number in range(3)]
    (tmp_path / "class/1.txt").write_text("another dog")
    with pytest.raises(BadInput, match="the class pictures' captions: "):
        train(command(class_captions="txt", max_train_steps=4, resume_from_checkpoint="latest", **settings))
    (tmp_path / "class/1.txt").unlink()
    with pytest.raises(BadInput, match="--class_captions txt: 1 of 3 pictures have no caption"):
        train(command(class_captions="txt", overwrite=True, **settings))
