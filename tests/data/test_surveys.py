"""The survey of the subjects: every picture with its caption and mask, and what is wrong with them."""

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from support.families import load_family
from support.pictures import draw_pictures

from dreambooth.config.concept_sections import ConceptSettings, SubjectSettings
from dreambooth.config.sections import PictureSettings
from dreambooth.data import surveys
from dreambooth.system.errors import BadInput


@pytest.fixture
def folders(tmp_path):
    return draw_pictures(tmp_path / "dog", 3), draw_pictures(tmp_path / "cat", 2, (30, 50), first=7)


def subject(folder, prompt, **settings):
    return SubjectSettings(str(folder), prompt, **settings)


def captioned(folder, text):
    rows = [{"file_name": path.name, "text": text} for path in sorted(folder.glob("*.png"))]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_each_subject_has_its_pictures_captions_and_masks(folders, tmp_path):
    dog, cat = folders
    captioned(cat, "a {} in snow")
    (dog / "notes.md").write_text("x")
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in dog.glob("*.png"):
        Image.new("L", (40, 40), "white").save(masks / path.name)
    concepts = ConceptSettings(
        concepts=(
            subject(
                dog, "a photo of sks dog", mask_dir=str(masks), class_prompt="a dog", class_data_dir="c", weight=2.0
            ),
            subject(cat, "a photo of {}", subject="zwx cat", class_prompt="a cat", class_data_dir="c"),
        ),
        with_prior_preservation=True,
    )
    found = surveys.survey(concepts, PictureSettings())
    first, second = found.concepts
    assert (first.prompt, first.class_prompt, first.weight) == ("a photo of sks dog", "a dog", 2.0)
    assert [each.mask for each in first.pictures] == [masks / each.path.name for each in first.pictures]
    assert {each.caption for each in first.pictures} == {None}
    assert (second.prompt, second.class_prompt, second.weight) == ("a photo of zwx cat", "a cat", 1.0)
    assert {(each.caption, each.mask) for each in second.pictures} == {("a zwx cat in snow", None)}
    assert found.others == (dog / "notes.md",) and found.captions == ("", "metadata.jsonl") and found.problems == ()


def test_a_picture_that_is_there_twice_is_named(folders, tmp_path):
    dog, cat = folders
    [path, *_] = sorted(dog.glob("*.png"))
    (dog / "copy.png").write_bytes(path.read_bytes())
    found = surveys.survey(ConceptSettings(str(dog), "a photo of sks dog"), PictureSettings())
    assert found.problems == (f"--instance_data_dir {dog}: some of its pictures are the same file twice",)
    (dog / "copy.png").unlink()
    (cat / "copy.png").write_bytes(path.read_bytes())
    both = ConceptSettings(concepts=(subject(dog, "a sks dog"), subject(cat, "a zwx cat")))
    [problem] = surveys.survey(both, PictureSettings()).problems
    assert problem.startswith(f"{path} and {cat / 'copy.png'} are the same picture")


def test_a_fault_of_the_second_subject_ends_the_survey(folders, tmp_path):
    dog, cat = folders
    (cat / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    both = ConceptSettings(concepts=(subject(dog, "a sks dog"), subject(cat, "a zwx cat")))
    with pytest.raises(BadInput, match=f"--instance_data_dir {cat}: .*broken.png claims to be a picture"):
        surveys.survey(both, PictureSettings())


PRIOR = dict(with_prior_preservation=True, class_data_dir="c", class_prompt="a photo of a dog")


def test_class_prompts_are_the_captions_without_the_identifier(folders, twin):
    dog, _ = folders
    tokenizers = load_family(twin).tokenizers
    for path, text in zip(sorted(dog.glob("*.png")), ["sks dog in snow", "sks dog in snow", "my sks dog"]):
        path.with_suffix(".txt").write_text(text)
    own = ConceptSettings(str(dog), "a photo of sks dog", class_prompts_from_captions=True, **PRIOR)
    [found] = surveys.classes(own, surveys.survey(own, PictureSettings()), tokenizers)
    assert found.prompts == ("a dog in snow", "my dog") and found.prompt == "a photo of a dog"
    plain = ConceptSettings(str(dog), "a photo of sks dog", **PRIOR)
    assert surveys.classes(plain, surveys.survey(plain, PictureSettings()), tokenizers) == plain.classes


@pytest.mark.parametrize("prompt, said", [("a photo of sks dog", "have no captions"), ("a dog", "has no identifier")])
def test_class_prompts_need_captions_and_an_identifier(folders, twin, prompt, said):
    dog, _ = folders
    if "identifier" in said:
        captioned(dog, "a dog in snow")
    own = ConceptSettings(str(dog), prompt, class_prompts_from_captions=True, **PRIOR)
    with pytest.raises(BadInput, match=f"--class_prompts_from_captions: .*{said}"):
        surveys.classes(own, surveys.survey(own, PictureSettings()), load_family(twin).tokenizers)


def test_transparency_that_no_picture_of_all_subjects_has_is_refused(folders):
    dog, cat = folders
    both = ConceptSettings(concepts=(subject(dog, "a sks dog"), subject(cat, "a zwx cat")))
    with pytest.raises(BadInput, match="--use_alpha: no picture has transparency"):
        surveys.survey(both, PictureSettings(use_alpha=True))
    Image.new("RGBA", (40, 40), (0, 0, 0, 128)).save(cat / "clear.png")
    _, of_cat = surveys.survey(both, PictureSettings(use_alpha=True)).concepts
    assert [each.mask for each in of_cat.pictures if each.mask] == [cat / "clear.png"]


def test_many_pictures_with_captions_are_surveyed_in_little_time_and_memory(tmp_path):
    """The bar is 30 s and 10 KB each for 10,000 pictures of 512 x 512 on two cores: here a part of them, smaller."""
    count = 600
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for number in range(count):
        noise[0, 0] = number % 256, number // 256, 0
        Image.fromarray(noise).save(tmp_path / f"{number}.jpg")
        (tmp_path / f"{number}.txt").write_text(f"a photo of sks dog in scene {number}")
    own = ConceptSettings(str(tmp_path), "a photo of sks dog")
    tracemalloc.start()
    found = surveys.survey(own, PictureSettings(resize_mode="buckets"))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.concepts[0].pictures) == count and kept < 3000 * count


def test_a_mask_that_scaling_leaves_nothing_of_is_named(tmp_path):
    folder = draw_pictures(tmp_path / "dog", 1, size=(2000, 2000))
    grey = Image.new("L", (2000, 2000), 0)
    grey.putpixel((7, 7), 255)
    (tmp_path / "masks").mkdir()
    grey.save(tmp_path / "masks/0.png")
    shown = PictureSettings(unmasked_weight=0.0, mask_dir=str(tmp_path / "masks"))
    found = surveys.survey(ConceptSettings(str(folder), "a photo of sks dog"), shown)
    with pytest.raises(BadInput, match="--unmasked_weight 0: the mask of .*0.png has no place that counts"):
        surveys.check_crops(found, shown, [(32, 32)])


@pytest.mark.parametrize("place, random_crop, is_lost", [(0, False, True), (0, True, True), (28, False, False)])
def test_a_mask_that_a_crop_leaves_nothing_of_is_named(tmp_path, place, random_crop, is_lost):
    folder = draw_pictures(tmp_path / "dog", 1, size=(64, 32))
    grey = Image.new("L", (64, 32), 0)
    grey.paste(255, (place, 0, place + 8, 32))
    (tmp_path / "masks").mkdir()
    grey.save(tmp_path / "masks/0.png")
    own = dict(mask_dir=str(tmp_path / "masks"), resize_mode="crop", random_crop=random_crop)
    for unmasked, is_refused in ((0.0, is_lost), (0.1, False)):
        shown = PictureSettings(unmasked_weight=unmasked, **own)
        found = surveys.survey(ConceptSettings(str(folder), "a photo of sks dog"), shown)
        if is_refused:
            with pytest.raises(BadInput, match="--unmasked_weight 0: the mask of .*0.png has no place that counts"):
                surveys.check_crops(found, shown, [(32, 32)])
        else:
            surveys.check_crops(found, shown, [(32, 32)])


def test_subjects_of_one_class_take_turns_in_its_prompts_without_any_identifier(folders, twin, monkeypatch):
    monkeypatch.setattr(surveys.rare_words.RareWords, "identifier", lambda self, prompt, _: prompt.split()[3])
    dog, cat = folders
    for folder, word in ((dog, "sks"), (cat, "zwx")):
        for number, path in enumerate(sorted(folder.glob("*.png"))):
            path.with_suffix(".txt").write_text(f"{word} dog in scene {number}" + " with zwx dog" * (word == "sks"))
    both = ConceptSettings(
        concepts=(
            subject(dog, "a photo of sks dog", class_prompt="a photo of a dog"),
            subject(cat, "a photo of zwx dog", class_prompt="a photo of a dog"),
        ),
        with_prior_preservation=True,
        class_data_dir="c",
        class_prompts_from_captions=True,
    )
    [found] = surveys.classes(both, surveys.survey(both, PictureSettings()), load_family(twin).tokenizers)
    assert found.prompts == (
        "a dog in scene 0 with a dog",
        "a dog in scene 0",
        "a dog in scene 1 with a dog",
        "a dog in scene 1",
        "a dog in scene 2 with a dog",
    )
