"""Photographs of a subject, for training and for measuring, and the repository's sample pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.commands import ROOT, python

from dreambooth import metrics
from dreambooth.data import picture_files
from dreambooth.system.errors import BadInput
from miniworld import photograph, world

TRAINING = {"on-the-grass.png", "on-the-beach.png", "in-the-snow.png", "in-the-mountains.png", "in-the-city.png"}


@pytest.fixture
def taken(tmp_path, capsys):
    """Run the command; return {name: pixels} of the pictures in its folder."""

    def run(*arguments, folder="pictures"):
        photograph.main([*map(str, arguments), "--output", str(tmp_path / folder)])
        assert capsys.readouterr().out == f"photographs    {tmp_path / folder}\n"
        return pixels(tmp_path / folder)

    return run


def pixels(folder):
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("subject", world.SUBJECTS)
def test_each_training_scene_has_one_picture_with_its_name(taken, subject, tmp_path):
    pictures = taken("--subject", subject)
    assert pictures.keys() == TRAINING and {each.shape for each in pictures.values()} == {(64, 64, 3)}
    assert not (tmp_path / "pictures" / photograph.PROMPTS).exists()
    for scene in world.SEEN:
        expected = np.asarray(world.photograph(subject, scene, 0, 0))
        assert np.array_equal(pictures[scene.replace(" ", "-") + ".png"], expected)


def test_each_other_scene_has_several_measuring_pictures(taken):
    pictures = taken("--subject", "cat", "--measuring", "--count", 3)
    expected = {f"{scene}-{k}.png" for scene in ("at-night", "on-a-red-carpet", "in-a-bucket") for k in range(3)}
    assert pictures.keys() == expected
    assert len({each.tobytes() for each in pictures.values()}) == 9
    assert len(taken("--subject", "cat", "--measuring", folder="more")) == 12


def test_a_measuring_picture_says_what_it_is(taken, tmp_path):
    taken("--subject", "cat", "--measuring", "--count", 2, "--seed", 3)
    text = Image.open(tmp_path / "pictures/at-night-1.png").text
    assert text == {"prompt": "a photo of sks cat at night", "seed": "3", "picture": "1"}


def test_training_and_measuring_pictures_of_the_same_scene_differ(tmp_path):
    photograph.write_training_pictures("dog", tmp_path / "training")
    photograph.write_measuring_pictures("dog", tmp_path / "measuring", count=6, scenes=world.SEEN)
    training, measuring = pixels(tmp_path / "training"), pixels(tmp_path / "measuring")
    assert len(measuring) == 30
    assert not {each.tobytes() for each in training.values()} & {each.tobytes() for each in measuring.values()}


def test_the_pictures_depend_on_the_seed(taken):
    for more in ([], ["--measuring"]):
        line = ["--subject", "dog", *more]
        first, again = taken(*line, folder=f"a{more}"), taken(*line, "--seed", 0, folder=f"b{more}")
        other = taken(*line, "--seed", 1, folder=f"c{more}")
        assert same(first, again)
        assert first.keys() == other.keys() and not any(np.array_equal(first[name], other[name]) for name in first)


def test_the_size_is_a_flag(taken):
    for more in ([], ["--measuring"]):
        pictures = taken("--subject", "bird", "--size", 96, *more, folder=f"pictures{more}")
        assert {each.shape for each in pictures.values()} == {(96, 96, 3)}


@pytest.mark.parametrize("identifier", ["sks", "zwx"])
def test_each_prompt_is_compared_with_its_own_scenes_pictures(taken, tmp_path, identifier):
    taken("--subject", "car", "--measuring", "--identifier", identifier)
    folder = tmp_path / "pictures"
    pictures, others = picture_files.find_pictures(folder, "--subject_data_dir")
    assert [each.name for each in others] == [photograph.PROMPTS]
    arguments = SimpleNamespace(prompt=[], prompts_file=folder / photograph.PROMPTS, subject_data_dir=folder)
    requests = metrics.read_requests(arguments, pictures)
    assert [each.prompt for each in requests] == [f"a photo of {identifier} car {scene}" for scene in world.UNSEEN]
    for each, scene in zip(requests, world.UNSEEN):
        names = [pictures[index].path.name for index in each.references]
        assert names == [f"{scene.replace(' ', '-')}-{number}.png" for number in range(4)]


@pytest.mark.parametrize(
    "line, named",
    [
        ("--subject dog --count 0 --measuring", "--count 0"),
        ("--subject dog --count many --measuring", "--count"),
        ("--subject dog --size 0", "--size 0"),
        ("--subject dog --size -64", "--size -64"),
        ("--subject dog --seed -1", "--seed -1"),
        ("--subject horse", "--subject"),
        ("", "--subject"),
        ("--subject dog --measure", "--measure"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(line, named, tmp_path):
    with pytest.raises(BadInput, match=named):
        photograph.main([*line.split(), "--output", str(tmp_path / "pictures")])
    assert not list(tmp_path.iterdir())


def test_the_output_is_required_and_must_be_a_folder(tmp_path):
    with pytest.raises(BadInput, match="--output"):
        photograph.main(["--subject", "dog"])
    (tmp_path / "file").write_text("a file")
    for place in ("file", "file/below"):
        with pytest.raises(BadInput, match="--output"):
            photograph.main(["--subject", "dog", "--output", str(tmp_path / place)])
    assert (tmp_path / "file").read_text() == "a file"


LIGHT = """
import runpy, sys
runpy.run_module("miniworld.photograph", run_name="__main__")
assert not {"paddle", "paddlenlp", "ppdiffusers"} & set(sys.modules)
"""


def test_the_command_prints_the_folder_and_imports_none_of_the_libraries(tmp_path):
    done = python("-c", LIGHT, "--subject", "dog", "--output", tmp_path / "dog")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"photographs    {tmp_path / 'dog'}\n", "")
    done = python("-m", "miniworld.photograph", "--subject", "dog", "--output", tmp_path / "dog", "--size", "0")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: --size 0: must be at least 1\n")


def test_the_command_writes_the_repositorys_sample_pictures(taken):
    sample = pixels(ROOT / "dream_image")
    assert sample.keys() == TRAINING and {each.name for each in (ROOT / "dream_image").iterdir()} == TRAINING
    assert same(sample, taken("--subject", "dog", "--size", 512))
