"""Settings that are allowed, and have a warning."""

import pytest
from test_config import PRIOR, read

from dreambooth.config.checks import doubts


def test_an_early_update_of_a_lora_is_allowed_and_has_a_warning():
    assert not list(doubts.warnings(read("--early_update")))
    assert [each for each in doubts.warnings(read("--early_update --lora_rank 4")) if each.startswith("--early_update")]


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
    [warning] = doubts.warnings(read(flags))
    assert named in warning


def test_a_plain_run_is_not_warned_about():
    assert list(doubts.warnings(read())) == list(doubts.warnings(read(PRIOR))) == []


@pytest.mark.parametrize("line, warned", [("", False), ("--learning_rate 5e-6", True), ("--learning_rate 5e-5", False)])
def test_a_lora_at_a_whole_networks_rate_is_warned_of(line, warned):
    said = " ".join(doubts.warnings(read(f"--lora_rank 4 {line}")))
    assert ("is a whole network's, at which a LoRA learns next to nothing" in said) == warned
    assert "a LoRA learns" not in " ".join(doubts.warnings(read(line)))


@pytest.mark.parametrize("rate, warned", [("5e-6", "learns next to nothing"), ("2e-2", None), ("0.5", "is very high")])
def test_a_word_alone_has_a_usual_rate_of_its_own(rate, warned):
    line = f"--learn_identifier alone --instance_prompt <sks> --class_prompt dog --learning_rate {rate}"
    said = list(doubts.warnings(read(line)))
    assert (len(said) == 1 and warned in said[0]) if warned else said == []
