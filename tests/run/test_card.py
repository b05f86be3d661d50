"""The card as the hub reads it."""

import pytest
import yaml

from dreambooth.run.sharing import card
from dreambooth.system.errors import BadInput

NAMED = {"base_model": "CompVis/stable-diffusion-v1-4", "base_folder": None}
TEXT = "---\nbase_model: CompVis/stable-diffusion-v1-4\ntags: [lora]\n---\n\n# A dog\n"


def front_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_top_has_licence_base_and_pictures_and_the_text_stays():
    made = card.for_others(TEXT, NAMED, {"samples/a.png": "a dog"}, None)
    assert front_of(made) == {
        "base_model": "CompVis/stable-diffusion-v1-4",
        "pipeline_tag": "text-to-image",
        "license": "creativeml-openrail-m",
        "widget": [{"text": "a dog", "output": {"url": "samples/a.png"}}],
        "tags": ["lora"],
    }
    assert "\n# A dog\n" in made and "Its licence is creativeml-openrail-m" in made


def test_a_second_time_nothing_is_added():
    once = card.for_others(TEXT, NAMED, {"samples/a.png": "a dog"}, None)
    assert card.for_others(once, NAMED, {"samples/a.png": "a dog"}, None) == once


def test_the_licence_is_that_of_the_flag_of_the_author_or_of_the_base(tmp_path):
    own = TEXT.replace("tags", "license: mit\ntags")
    assert front_of(card.for_others(own, NAMED, {}, None))["license"] == "mit"
    assert front_of(card.for_others(own, NAMED, {}, "apache-2.0"))["license"] == "apache-2.0"
    local = {"base_model": "./sd", "base_folder": str(tmp_path / "sd")}
    (tmp_path / "sd").mkdir()
    assert "license" not in front_of(card.for_others("", local, {}, None))
    assert "whose licence applies to it" in card.for_others("", local, {}, None)
    (tmp_path / "sd/README.md").write_text("---\nlicense: openrail++\n---\n")
    made = front_of(card.for_others("", local, {}, None))
    assert made["license"] == "openrail++" and made["base_model"] == "sd"


def test_prompts_of_any_text_are_written_so_that_they_are_read_back():
    for prompt in ("a: b", "---\nlicense: evil\n---", '"quotes" & {braces}', "一只狗", "- item", "# no comment"):
        made = card.for_others("", NAMED, {"samples/a.png": prompt}, None)
        assert yaml.safe_load(made.split("\n---\n")[0].removeprefix("---\n"))["widget"][0]["text"] == prompt


@pytest.mark.parametrize("front", ["[", "a: b: c", "only words", "- a list", "!!python/object:os.system x"])
def test_a_top_that_can_not_be_read_is_refused(front):
    with pytest.raises(BadInput, match="can't be read"):
        card.for_others(f"---\n{front}\n---\n# text\n", NAMED, {}, None)


def test_a_card_without_a_top_gets_one():
    made = card.for_others("# My dog\n", NAMED, {}, None)
    assert made.startswith("---\n") and "# My dog" in made
