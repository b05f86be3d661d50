"""The subjects and their classes: of one by flags, of several by a list; what each shares with the others."""

import time

import pytest
from support.settings import small_config

from dreambooth.config.checks import doubts
from dreambooth.config.concept_sections import ClassSettings, ConceptSettings, SubjectSettings, fill
from dreambooth.config.config import Config
from dreambooth.system.errors import BadInput

DOG = dict(instance_data_dir="dog", instance_prompt="a photo of sks dog", class_prompt="a photo of a dog")
CAT = dict(instance_data_dir="cat", instance_prompt="a photo of zwx cat", class_prompt="a photo of a cat")
HOUND = dict(instance_data_dir="hound", instance_prompt="a photo of ohwx dog", class_prompt="a photo of a dog")
PRIOR = dict(with_prior_preservation=True, class_data_dir="class")


def several(*subjects, **settings):
    return ConceptSettings(concepts=tuple(SubjectSettings(**each) for each in subjects), **settings)


def config(*subjects, **settings):
    return Config.from_flat(pretrained_model_name_or_path="m", concepts=list(subjects), **settings)


def test_flags_make_one_subject():
    one = ConceptSettings("dog", "a photo of sks dog", class_prompt="a photo of a dog", **PRIOR)
    assert one.subjects == (SubjectSettings(**DOG, class_data_dir="class", num_class_images=100),)
    assert one.classes == (ClassSettings("a photo of a dog", "class", 100),)
    assert ConceptSettings("dog", "a photo of sks dog").classes == ()


def test_subjects_take_from_the_flags_what_they_lack_and_share_their_class():
    cat = {**CAT, "class_data_dir": "cats", "num_class_images": 7}
    hound = {**HOUND, "num_class_images": 120}
    concepts = several(DOG, cat, hound, class_negative_prompt="blurred", **PRIOR)
    assert concepts.classes == (
        ClassSettings("a photo of a dog", "class", 120, "blurred"),
        ClassSettings("a photo of a cat", "cats", 7, "blurred"),
    )
    assert [concepts.class_of(each) for each in concepts.subjects] == [0, 1, 0]
    without = several(DOG, cat)
    assert [without.class_of(each) for each in without.subjects] == [None, None]


def test_an_epoch_covers_the_longest_list_in_its_share():
    assert several(DOG, CAT).epoch([5, 3]) == 10
    assert several({**DOG, "repeats": 2}, CAT).epoch([5, 3]) == 20
    assert several({**DOG, "weight": 3.0}, CAT).epoch([5, 3]) == 12
    assert several(DOG, CAT, num_class_images=40, **PRIOR).epoch([5, 3]) == 80
    assert several(DOG, HOUND, num_class_images=40, **PRIOR).epoch([5, 3]) == 40
    thirds = several({**DOG, "weight": 0.1}, {**CAT, "weight": 0.2})
    assert thirds.epoch([5, 10]) == 15


@pytest.mark.parametrize(
    "preservation, pictures, epoch", [(False, 5, 5), (False, 500, 500), (True, 5, 100), (True, 500, 500)]
)
def test_an_epoch_of_one_subject_covers_the_longer_list(preservation, pictures, epoch):
    of_class = dict(with_prior_preservation=preservation, class_prompt="a dog", class_data_dir="class")
    assert ConceptSettings("pictures", "a photo of sks dog", **of_class).epoch([pictures]) == epoch


def test_the_course_of_one_subject_is_the_same_by_flags_and_by_a_list():
    flags = dict(pretrained_model_name_or_path="m", **PRIOR)
    one = Config.from_flat(**flags, **DOG).fingerprint(10, 1)
    listed = Config.from_flat(**flags, concepts=[DOG]).fingerprint(10, 1)
    assert one == listed and one["instance_prompt"] == "a photo of sks dog" and "concepts" not in one


@pytest.mark.parametrize(
    "change",
    [dict(weight=2.0), dict(class_prompt="a dog"), dict(instance_prompt="a sks dog"), dict(num_class_images=9)],
)
def test_the_course_of_several_has_what_changes_an_update(change):
    before = config(DOG, CAT, **PRIOR).fingerprint(10, 1)
    assert config({**DOG, **change}, CAT, **PRIOR).fingerprint(10, 1) != before
    assert config({**DOG, "repeats": 3, "class_data_dir": "moved"}, CAT, **PRIOR).fingerprint(10, 1) == before
    assert not {"instance_prompt", "class_prompt"} & before.keys()


def test_several_subjects_are_read_back_from_their_values_by_flag():
    made = config({**DOG, "weight": 2.0}, {**CAT, "mask_dir": "masks"}, learning_rate=1e-5, **PRIOR)
    assert Config.from_flat(**made.flat()) == made
    assert made.flat()["concepts"][1] == {**CAT, "mask_dir": "masks", "repeats": 1, "weight": 1.0}
    assert made.has_masks and not config(DOG, CAT).has_masks and made.fingerprint(1, 1)["unmasked_weight"] == 0.1


@pytest.mark.parametrize(
    "subjects, settings, said",
    [
        ([DOG], dict(instance_prompt="x"), "--instance_prompt can't be combined with --concepts"),
        ([DOG], dict(subject="sks dog"), "--subject can't be combined with --concepts"),
        ([DOG], dict(mask_dir="masks"), "--mask_dir can't be combined with --concepts"),
        ([], {}, "its list is empty"),
        ([DOG, {**DOG, "instance_data_dir": "x"}], {}, "two subjects have the same prompt, a photo of sks dog"),
        ([DOG, {**CAT, "instance_prompt": "a photo  of {}", "subject": "sks dog"}], {}, "have the same prompt"),
        ([DOG, {**CAT, "instance_data_dir": "./dog/"}], {}, "two subjects have the same folder"),
        ([DOG, {**CAT, "weight": 0.0}], {}, "--concepts: subject 2: weight 0.0: must be at least 1e-06"),
        ([DOG, {**CAT, "weight": 1e200}], {}, "--concepts: subject 2: weight 1e+200: must be less than 1000000"),
        ([DOG, {**CAT, "weight": float("nan")}], {}, "weight nan: must be a finite number"),
        ([{**DOG, "repeats": 10**400}], {}, "must be less than 1000000"),
        ([DOG, CAT], dict(validation_prompt=["a {}"]), "{} stands for the subject; write the words of one"),
        ([{**DOG, "repeats": 0}], {}, "--concepts: subject 1: repeats 0: must be at least 1"),
        ([{**DOG, "instance_prompt": " "}], {}, "--concepts: subject 1: instance_prompt is required"),
        ([{"instance_prompt": "x"}], {}, "--concepts: subject 1: instance_data_dir is required"),
        (
            [{**DOG, "instance_prompt": "a {}"}],
            {},
            "{} stands for the subject; give it in the list, as `subject: sks dog`",
        ),
        (
            [DOG, {**CAT, "class_prompt": None}],
            PRIOR,
            '--with_prior_preservation needs --class_prompt for "a photo of z',
        ),
        ([DOG], dict(with_prior_preservation=True), "--with_prior_preservation needs --class_data_dir"),
        ([DOG, CAT], {**PRIOR, "class_data_dir": "cat"}, "--class_data_dir is the same folder as --instance_data_dir"),
    ],
)
def test_what_several_subjects_can_not_have_is_refused(subjects, settings, said):
    with pytest.raises(BadInput) as error:
        config(*subjects, **settings)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(class_prompts_from_captions=True), "needs --with_prior_preservation"),
        (dict(class_prompts_from_captions=True, captions="off", **PRIOR, class_prompt="a"), "--captions off"),
        (dict(class_prompt="a {}"), "--class_prompt a {}: {} stands for a subject; name the class"),
        (dict(num_class_images=10**20), "--num_class_images .*must be less than 1000000"),
        (dict(color_jitter=0.1), "--color_jitter needs --no_cache_latents"),
        (dict(random_crop=True), "--random_crop needs --resize_mode crop or buckets"),
    ],
)
def test_settings_that_need_others_are_refused_without_them(changes, said):
    with pytest.raises(BadInput, match=said):
        small_config(**changes)


def test_the_prompt_has_the_subject_in_the_place_of_braces():
    assert SubjectSettings("dog", "a photo of {}", "sks dog").prompt == "a photo of sks dog"
    assert fill("no braces", None, "here") == "no braces"
    with pytest.raises(BadInput, match="here: {} stands for the subject"):
        fill("a {}", " ", "here")


def test_the_drawn_pictures_take_the_prompts_in_turn():
    assert [ClassSettings("a dog", "c", 3).prompt_of(number) for number in range(2)] == ["a dog", "a dog"]
    several = ClassSettings("a dog", "c", 3, prompts=("x", "y"))
    assert [several.prompt_of(number) for number in range(3)] == ["x", "y", "x"]


def test_one_prompt_with_braces_serves_several_subjects():
    prompt = "a photo of {}"
    one, other = ({**each, "instance_prompt": prompt, "subject": word} for each, word in ((DOG, "sks dog"), (CAT, "x")))
    assert [each.prompt for each in config(one, other).concepts.subjects] == ["a photo of sks dog", "a photo of x"]


def test_a_class_folder_in_two_spellings_is_one_class():
    concepts = several({**DOG, "class_data_dir": "class/"}, {**HOUND, "class_data_dir": "./class"}, **PRIOR)
    assert len(concepts.classes) == 1


def test_hundreds_of_subjects_are_counted_at_once():
    many = [
        dict(instance_data_dir=f"d{n}", instance_prompt=f"a photo of x{n} y", class_prompt=f"c{n}") for n in range(300)
    ]
    start = time.perf_counter()
    made = config(*many, **PRIOR)
    assert made.concepts.epoch([5] * 300) == 30000 and len(made.fingerprint(1, 1)["concepts"]) == 300
    assert time.perf_counter() - start < 5


def test_a_class_in_a_list_without_prior_preservation_is_reported():
    assert "--class_prompt is not used without --with_prior_preservation" in doubts.warnings(config(DOG))
