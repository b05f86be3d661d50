"""Settings from documents: their types, sections, mistakes, and which of several sources holds."""

import dataclasses
import json

import pytest
from test_config import REQUIRED, flat_value

from dreambooth.config.config import SECTIONS
from dreambooth.config.parser import read_config
from dreambooth.config.sources import overlays
from dreambooth.config.sources.overlays import Layer
from dreambooth.system.errors import BadInput

FIELDS = {name: {each.name: each for each in dataclasses.fields(kind)} for name, kind in SECTIONS.items()}


def of(document):
    return overlays.settings_of(document, FIELDS, "--config x")


def test_flags_stand_flat_or_in_their_sections():
    flat = of({"lora_rank": "4", "learning_rate": "5e-6"})
    assert of({"lora": {"lora_rank": "4"}, "optimizer": {"learning_rate": 5e-6}}) == flat
    assert flat == {"lora_rank": 4, "learning_rate": 5e-6}


@pytest.mark.parametrize(
    "name, value, read",
    [
        ("learning_rate", "5e-6", 5e-6),
        ("learning_rate", 1, 1.0),
        ("seed", "0", 0),
        ("seed", 7.0, 7),
        ("center_crop", "yes", True),
        ("center_crop", True, True),
        ("cache_latents", "Off", False),
        ("mixed_precision", "no", "no"),
        ("validation_prompt", "one", ("one",)),
        ("validation_prompt", ["one", "two"], ("one", "two")),
        ("instance_prompt", "a photo of sks dog: no", "a photo of sks dog: no"),
    ],
)
def test_a_value_has_the_type_of_its_flag(name, value, read):
    found = of({name: value})
    assert found == {name: read} and type(found[name]) is type(read)


@pytest.mark.parametrize("nothing", [None, "", "null", "~"])
def test_nothing_leaves_the_default(nothing):
    assert of({"lora_rank": nothing, "instance_prompt": nothing}) == {}


def test_an_alias_is_its_flag():
    assert of({"checkpointing_steps": "7"}) == {"save_steps": 7}


@pytest.mark.parametrize(
    "document, said",
    [
        ({"lerning_rate": "1"}, '"lerning_rate": there is no such setting; did you mean --learning_rate?'),
        ({"use_8bit_adam": "true"}, "here it is --optimizer adamw8bit"),
        ({"optimiser": {"seed": 1}}, '"optimiser": there is no such section; the sections are model, concepts'),
        ({"lora": {"seed": "1"}}, '"seed" is in section lora; it belongs to run'),
        ({"run": {"seed": "1"}, "seed": "1"}, '"seed" stands there twice'),
        ({"save_steps": "1", "checkpointing_steps": "1"}, '"save_steps" stands there twice'),
        ({"seed": "1.5"}, "seed: '1.5': must be a whole number"),
        ({"seed": True}, "must be a whole number"),
        ({"seed": 1.5}, "must be a whole number"),
        ({"seed": float("inf")}, "must be a whole number"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast': must be a number"),
        ({"learning_rate": ["1"]}, "must be a number"),
        ({"center_crop": "maybe"}, "must be true or false"),
        ({"center_crop": ["true"]}, "must be true or false"),
        ({"instance_prompt": 7}, "must be a text; put it into quotes"),
        ({"instance_prompt": ["a", "b"]}, "must be a text"),
        ({"optimizer": "adamw9"}, "must be one of adamw, adamw8bit, adafactor"),
        ({1: "x"}, '"1": there is no such setting'),
        ([], "it must have lines such as"),
        ("text", "it must have lines such as"),
        (None, "it must have lines such as"),
    ],
)
def test_a_mistake_is_named(document, said):
    with pytest.raises(BadInput) as error:
        of(document)
    assert str(error.value).startswith("--config x: ") and said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_of_a_run_is_its_settings_without_how_it_began():
    record = {
        "flags": {"seed": 3, "lora_rank": None, "resume_from_checkpoint": "latest", "overwrite": True},
        "steps": 2,
        "concepts": [],
    }
    assert of(record) == {"seed": 3}


def test_a_later_layer_holds_and_what_says_the_same_in_other_words_goes():
    file = Layer("file", {"max_train_steps": 400, "height": 64, "width": 32, "seed": 1})
    line = Layer("line", {"num_train_epochs": 2, "resolution": 128, "seed": 2})
    values, sources = overlays.merged([file, line])
    assert values == {"num_train_epochs": 2, "resolution": 128, "seed": 2} and set(sources.values()) == {"line"}
    values, sources = overlays.merged([file, Layer("line", {"resolution": 128, "height": 256})])
    assert values == {"max_train_steps": 400, "seed": 1, "resolution": 128, "height": 256}
    assert sources == {"max_train_steps": "file", "seed": "file", "resolution": "line", "height": "line"}
    assert overlays.merged([file]) == (dict(file.values), dict.fromkeys(file.values, "file"))


def settings_file(tmp_path, **changes):
    path = tmp_path / "run.json"
    required = {name.lstrip("-"): value for name, value in REQUIRED.items()}
    path.write_text(json.dumps({**required, **changes}))
    return str(path)


def test_the_command_line_has_priority_over_a_file(tmp_path):
    path = settings_file(tmp_path, learning_rate="1e-3", center_crop=True, cache_latents=False, seed=4)
    config = read_config(["--config", path, "--learning_rate", "2e-3", "--no_center_crop", "--cache_latents"], "")
    expected = {"learning_rate": 2e-3, "center_crop": False, "cache_latents": True, "seed": 4}
    assert {name: flat_value(config, name) for name in expected} == expected
    assert config.sources["seed"] == path and config.sources["learning_rate"] == "the command line"
    assert "save_steps" not in config.sources


def test_a_bad_value_is_named_with_its_file(tmp_path):
    path = settings_file(tmp_path, learning_rate="-1")
    with pytest.raises(BadInput, match=r"--learning_rate -1.0: must be more than 0 \(learning_rate is of .*run.json\)"):
        read_config(["--config", path], "")
    with pytest.raises(BadInput, match="more than 0$"):
        read_config(["--config", settings_file(tmp_path), "--learning_rate", "-1"], "")


LISTED = [
    {"instance_data_dir": "dog", "instance_prompt": "a sks dog", "weight": 1.5},
    {"instance_data_dir": "x", "instance_prompt": "y"},
]
FILES = {
    "a.json": json.dumps(LISTED),
    "b.json": json.dumps({"concepts": LISTED}),
    "c.yaml": """
- instance_data_dir: dog
  instance_prompt: a sks dog
  weight: 15e-1
- {instance_data_dir: x, instance_prompt: y}
""",
    "d.toml": """
[[concepts]]
instance_data_dir = "dog"
instance_prompt = "a sks dog"
weight = 1.5
[[concepts]]
instance_data_dir = "x"
instance_prompt = "y"
""",
}
MODEL = ["--pretrained_model_name_or_path", "m"]


@pytest.mark.parametrize("name", FILES)
def test_several_subjects_come_from_a_file_of_any_kind(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    config = read_config([*MODEL, "--concepts", str(tmp_path / name)], "")
    assert [each.prompt for each in config.concepts.subjects] == ["a sks dog", "y"]
    assert [each.weight for each in config.concepts.subjects] == [1.5, 1.0]
    assert config.sources["concepts"] == "the command line"


def test_several_subjects_may_stand_in_a_settings_file_and_go_where_another_layer_has_one(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "learning_rate: 1e-5\nconcepts:\n- {instance_data_dir: a, instance_prompt: b, weight: 2}"
    )
    config = read_config([*MODEL, "--config", str(tmp_path / "a.yaml")], "")
    assert config.concepts.subjects[0].weight == 2.0
    one = [*MODEL, "--config", str(tmp_path / "a.yaml"), "--instance_data_dir", "c", "--instance_prompt", "d"]
    assert read_config(one, "").concepts.concepts is None
    (tmp_path / "b.yaml").write_text("instance_data_dir: c\ninstance_prompt: d")
    (tmp_path / "l.json").write_text(json.dumps(LISTED))
    both = [*MODEL, "--config", str(tmp_path / "b.yaml"), "--concepts", str(tmp_path / "l.json")]
    assert len(read_config(both, "").concepts.subjects) == 2


@pytest.mark.parametrize(
    "text, said",
    [
        ("{}", "must be a list of subjects, each with instance_data_dir and instance_prompt"),
        ('[{"weight": {"a": 1}}]', 'subject 1: "weight": must be a plain value'),
        ("[3]", "must be a list of subjects"),
        ('[{"instance_prompt": "x"}]', "subject 1: instance_data_dir is required"),
        (
            '[{"instance_promt": "x"}]',
            'subject 1: "instance_promt": there is no such setting; did you mean instance_prompt?',
        ),
        ('[{"mixed_precision": "x"}]', "there is no such setting; the names are instance_data_dir, instance_prompt"),
        ('[{"instance_prompt": 3}]', "subject 1: instance_prompt: 3: must be a text"),
        ('[{"instance_prompt": "x", "instance_data_dir": "y", "weight": "much"}]', "weight: 'much': must be a number"),
        ('[{"instance_prompt": "x", "instance_data_dir": "y", "weight": -1}]', "weight -1.0: must be at least 1e-06"),
        ('[{"instance_prompt": {"a": 1}}]', "subject 1: "),
        ("[", "can't be read"),
        ("[]", "must be a list of subjects"),
    ],
)
def test_a_bad_list_of_subjects_is_named(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput) as error:
        read_config([*MODEL, "--concepts", str(tmp_path / "a.json")], "")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"--concepts {tmp_path / 'a.json'}: ")
