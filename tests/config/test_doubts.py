"""Settings that are allowed, and have a warning."""

import pytest
from test_config import PRIOR, read


def test_an_early_update_of_a_lora_is_allowed_and_has_a_warning():
    assert not list(read("--early_update").warnings())
    assert [each for each in read("--early_update --lora_rank 4").warnings() if each.startswith("--early_update")]


@pytest.mark.parametrize(
    "flags, named",
    [
        ([*PRIOR, "--class_prompt", "a photo of sks dog "], "--class_prompt"),
        (["--class_prompt", "a dog"], "--class_prompt"),
        (["--class_data_dir", "classes"], "--class_data_dir"),
        (["--text_encoder_lr", "1e-5"], "--text_encoder_lr"),
    ],
)
def test_what_is_probably_not_meant_is_warned_about(flags, named):
    [warning] = read(flags).warnings()
    assert named in warning


def test_a_plain_run_is_not_warned_about():
    assert list(read().warnings()) == list(read(PRIOR).warnings()) == []


@pytest.mark.parametrize("line, warned", [("", False), ("--learning_rate 5e-6", True), ("--learning_rate 5e-5", False)])
def test_a_lora_at_a_whole_networks_rate_is_warned_of(line, warned):
    said = " ".join(read(f"--lora_rank 4 {line}").warnings())
    assert ("is a whole network's, at which a LoRA learns next to nothing" in said) == warned
    assert "a LoRA learns" not in " ".join(read(line).warnings())
