"""The model card: what it names, its code and its samples."""

import dataclasses
import json
import re

import pytest
from support.settings import changed

from dreambooth.config.config import Config
from dreambooth.models import registry
from dreambooth.run import model_card


@pytest.fixture
def config(tmp_path):
    return Config.from_flat(
        pretrained_model_name_or_path="somebody/model",
        instance_data_dir="pictures",
        instance_prompt='a photo of "sks" dog',
        output_dir=str(tmp_path / "out"),
        seed=3,
    )


def test_the_card_names_model_prompt_steps_and_the_command(config, tmp_path):
    card = model_card.make_card(
        config,
        steps=400,
        processes=2,
        facts=registry.FAMILIES["StableDiffusionPipeline"],
    )
    for text in ("somebody/model", 'a photo of "sks" dog', "400 updates, batch 8", "512 x 512", "| seed | 3 |"):
        assert text in card
    assert (
        "python infer.py --model_path ./out " in card
        and 'from_pretrained("./out")' in card
        and "Samples" not in card
        and str(tmp_path) not in card
    )
    header = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1]
    assert 'base_model: "somebody/model"' in header and 'instance_prompt: "a photo of \\"sks\\" dog"' in header


def test_the_card_shows_the_last_samples(config, tmp_path):
    config = changed(config, validation_prompt=("sks dog at night",), num_validation_images=1)
    (tmp_path / "out/samples").mkdir(parents=True)
    for step in (200, 400):
        (tmp_path / f"out/samples/step-{step}-0-0.png").write_bytes(b"")
    card = model_card.make_card(config, 400, 1, registry.FAMILIES["UniDiffuserPipeline"])
    assert "(samples/step-400-0-0.png)" in card and "step-200" not in card and "sks dog at night" in card


def card_of(config, pipeline="StableDiffusionPipeline"):
    return model_card.make_card(config, 400, 1, registry.FAMILIES[pipeline])


def test_the_table_names_class_pictures_and_the_lora(config):
    assert "| class pictures | no |" in card_of(config) and "| learned | UNet |" in card_of(config)
    prior = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir="dogs", prior_loss_weight=0.5)
    card = card_of(changed(config, lora_rank=4, train_text_encoder=True, **prior))
    assert '| class pictures | 100 pictures of "a dog", weight 0.5 |' in card
    assert "| learned | a LoRA of rank 4 beside UNet and text encoder |" in card and "ppdiffusers, lora]" in card


@pytest.mark.parametrize(
    "pipeline, changes, code",
    [
        ("StableDiffusionPipeline", dict(), "from ppdiffusers import StableDiffusionPipeline"),
        ("StableDiffusionPipeline", dict(save_format="diffusers"), "from diffusers import StableDiffusionPipeline"),
        ("UniDiffuserPipeline", dict(), "from ppdiffusers import UniDiffuserPipeline"),
        ("StableDiffusionPipeline", dict(lora_rank=4), "load_lora_weights("),
        ("StableDiffusionPipeline", dict(lora_rank=4, lora_merge=True), "from_pretrained("),
        ("StableDiffusionPipeline", dict(lora_rank=4, train_text_encoder=True), None),
        ("StableDiffusionPipeline", dict(lora_rank=4, save_format="diffusers"), None),
        ("UniDiffuserPipeline", dict(lora_rank=4), None),
        ("StableDiffusionInpaintPipeline", dict(), 'image=Image.open("room.png"), mask_image=Image.open("mask.png")).'),
        ("StableDiffusionUpscalePipeline", dict(), 'image=Image.open("small.png"), noise_level=20).images[0]'),
    ],
)
def test_the_code_is_there_where_the_library_alone_can_load_the_result(config, pipeline, changes, code):
    card = card_of(changed(config, **changes), pipeline)
    assert ("```python" in card) is (code is not None) and (code or "") in card


def test_the_table_has_the_familys_own_words(config):
    labels = {"unet": "transformer", "text_encoder": "T5"}
    facts = dataclasses.replace(registry.FAMILIES["StableDiffusionPipeline"], labels=labels)
    assert "| learned | transformer |" in model_card.make_card(config, 400, 1, facts)
    both = changed(config, train_text_encoder=True)
    assert "| learned | transformer and T5 |" in model_card.make_card(both, 400, 1, facts)


ODD = 'a | *photo* of\n---\n<img src=x onerror=alert(1)> `sks` [dog](http://x) # & "cat"\n```\n<img src=y>'


def test_odd_prompts_leave_the_card_well_formed(config):
    changes = dict(instance_prompt=ODD, validation_prompt=(ODD,), with_prior_preservation=True)
    card = card_of(changed(config, **changes, class_prompt=ODD, class_data_dir="dogs"))
    _, header, body = card.split("---\n", 2)
    assert [line.split(":")[0] for line in header.splitlines()] == ["base_model", "instance_prompt", "tags"]
    assert json.loads(header.splitlines()[1].removeprefix("instance_prompt: ")) == ODD
    text = re.sub(r"^(`{4,})\w.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert (
        "<img" not in text
        and not re.search(r"(?<!\\)\]\(http", text)
        and "\n---\n" not in text.replace("|---|---|", "")
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows if row != "| | |") and len(rows) == 8


def test_the_card_has_no_path_of_the_base_model(config, tmp_path):
    (tmp_path / "home/my model").mkdir(parents=True)
    for changes in (dict(), dict(lora_rank=4)):
        card = card_of(changed(config, pretrained_model_name_or_path=str(tmp_path / "home/my model"), **changes))
        assert 'base_model: "my model"' in card and "| base model | my model |" in card and "home/my" not in card
