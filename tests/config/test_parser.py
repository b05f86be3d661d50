"""The command line: every flag sets its field, the help tells of all, and both come without the libraries."""

import dataclasses

import pytest
from support.commands import python
from test_config import REQUIRED, flat_value, read

from dreambooth.config import parser
from dreambooth.config.config import SECTIONS


@pytest.mark.parametrize(
    "flags, name, value",
    [
        ("--checkpointing_steps 7", "save_steps", 7),
        ("--report_to tensorboard", "writer_type", "tensorboard"),
        ("--no_cache_latents", "cache_latents", False),
        ("--cache_latents", "cache_latents", True),
        ("--seed 0", "seed", 0),
        ("--prior_loss_weight 0", "prior_loss_weight", 0.0),
        ("--learning_rate 1e-4", "learning_rate", 1e-4),
    ],
)
def test_a_flag_sets_its_field(flags, name, value):
    assert flat_value(read(flags), name) == value


def test_validation_prompts_add_up():
    config = read(["--validation_prompt", "sks dog at night", "--validation_prompt", "sks dog in a bucket"])
    assert config.logging.validation_prompt == ("sks dog at night", "sks dog in a bucket")
    assert config.logging.validation_count == 4
    assert read(["--validation_prompt", "x", "--num_validation_images", "2"]).logging.validation_count == 2


FIELDS = [each for section in SECTIONS.values() for each in dataclasses.fields(section)]


def test_every_section_heads_its_flags():
    text = parser.make_training_parser("").format_help()
    for section in SECTIONS.values():
        assert f"\n{section.title}:\n" in text


def test_the_help_shows_every_flag_with_its_text_and_default():
    text = " ".join(parser.make_training_parser("").format_help().split())
    for each in FIELDS:
        assert len(each.metadata["help"]) > 10
        assert f" --{each.name} " in text.replace(",", " ") and each.metadata["help"] in text
    assert "every so many updates (default: 500)" in text


# runs train_dreambooth.py as a script, and fails where that imported one of the libraries
LIGHT = """
import runpy, sys
try:
    runpy.run_path("train_dreambooth.py", run_name="__main__")
finally:
    heavy = {"paddle", "paddlenlp", "ppdiffusers"} & set(sys.modules)
    assert not heavy, heavy
"""


def test_the_help_comes_without_the_libraries():
    done = python("-c", LIGHT, "--help")
    assert done.returncode == 0, done.stderr
    assert "--instance_prompt" in done.stdout


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--learning_rate", "nan"], "--learning_rate"),
        (["--no_such_flag"], "--no_such_flag"),
        (["--instance_data_dir", "no such folder"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_comes_without_the_libraries(flags, named):
    done = python("-c", LIGHT, *(part for pair in REQUIRED.items() for part in pair), *flags)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and named in line
