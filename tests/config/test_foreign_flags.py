"""Flags that the command line does not have."""

import pytest
from test_config import read

from dreambooth.config import commands, parser
from dreambooth.config.sources import foreign_flags
from dreambooth.system.errors import BadInput


def refusal(flags):
    with pytest.raises(BadInput) as caught:
        read(flags)
    return str(caught.value)


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--max_training_steps 7", "--max_training_steps: there is no such flag; did you mean --max_train_steps?"),
        ("--max-train-steps 7", "--max-train-steps: there is no such flag; did you mean --max_train_steps?"),
        ("--learning_rat=1e-4", "--learning_rat: there is no such flag; did you mean --learning_rate?"),
        ("--xyz", "--xyz: there is no such flag; --help lists the flags"),
        ("--rank 4", "--rank: there is no such flag; here it is --lora_rank"),
        ("--use_8bit_adam", "--use_8bit_adam: there is no such flag; here it is --optimizer adamw8bit"),
        (
            "--rank 4 --min_snr_gamma 5 --steps 3",
            "here it is --lora_rank; --min_snr_gamma: here it is --snr_gamma; --steps: did",
        ),
        ("--lr 1e-4", "--lr: there is no such flag; did you mean --learning_rate?"),
        ("--epochs 3", "--epochs: there is no such flag; did you mean --num_train_epochs?"),
        ("--model m", "--model: there is no such flag; did you mean --pretrained_model_name_or_path?"),
        ("--steps 3", "--steps: there is no such flag; did you mean --max_train_steps?"),
        ("--image_interpolation_mode lanczos", "bilinear"),
        ("--push_to_hub --hub_token x", "--push_to_hub: there is no such flag; nothing is uploaded"),
        ("--learning_rate fast --rank 4", "--rank: there is no such flag"),
        ("--report_to wandb", "Weights & Biases reads the logs of --writer_type tensorboard"),
    ],
)
def test_an_unknown_flag_is_named_first_with_a_remedy(flags, said):
    assert said in refusal(flags)


def test_no_flag_of_another_script_is_one_of_ours():
    own = parser.make_training_parser("").own_flags()
    assert not [name for name in foreign_flags._ELSEWHERE if f"--{name}" in own]


def test_the_flags_that_remedies_name_exist():
    import re

    own = set(parser.make_training_parser("").own_flags())
    assert {flag for text in foreign_flags._ELSEWHERE.values() for flag in re.findall(r"--\w+", text)} <= own


def test_values_that_look_like_flags_are_none():
    assert read(["--instance_prompt", "a -- b", "--class_prompt=--x"]).concepts.class_prompt == "--x"


def test_the_flags_of_training_are_explained_to_training_alone():
    with pytest.raises(BadInput, match="--rank: there is no such flag; --help"):
        parser.read_settings(commands.DrawFlags, ["--rank", "4"])


def test_short_names_mean_what_a_command_has():
    with pytest.raises(BadInput, match="--steps: .*did you mean --num_inference_steps"):
        parser.read_settings(commands.DrawFlags, ["--steps", "4"])


def test_a_prompt_without_quotes_is_explained():
    line = ["--instance_prompt", "a", "photo", "of", "sks", "dog"]
    assert '"photo of sks dog": these words belong to no flag; put a text with spaces into quotes' in refusal(line)
    for words in (["\u2014seed", "1"], ["\uff0d\uff0dseed", "1"], ["-seed", "1"]):
        assert "a flag begins with two hyphens, --" in refusal(words)
    assert "takes no value" in refusal(["--with_prior_preservation", "True"])
    assert "here it is --instance_data_dir" in refusal(["--train_data_dir", "pictures"])


@pytest.mark.parametrize("value", ["-1e-4", "-3", "-0.5", "-inf"])
def test_a_negative_number_is_a_value_and_no_flag(value):
    assert refusal(["--learning_rate", value]).startswith(f"--learning_rate {float(value)}: must be ")
