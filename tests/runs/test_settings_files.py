"""Runs whose settings come from a file: the same result again, what the plan says of them, and the scripts."""

import json

import pytest
from support.commands import python, train
from support.weights import assert_same

from dreambooth.system.errors import BadInput


def test_a_runs_record_makes_the_same_result_again(flags, tmp_path):
    first, again = tmp_path / "out", tmp_path / "again"
    done = python(
        "train_dreambooth.py", *flags(seed=None, random_flip=True, validation_prompt="sks dog", ema_decay=0.5)
    )
    assert done.returncode == 0, done.stderr
    record = first / "training_args.json"
    assert isinstance(json.loads(record.read_text())["flags"]["seed"], int)
    train(["--config", str(record), "--output_dir", str(again)])
    for part in ("unet", "vae", "text_encoder"):
        assert_same(first / part, again / part)
    flags_of = [json.loads((each / "training_args.json").read_text())["flags"] for each in (first, again)]
    assert {name for name in flags_of[0] if flags_of[0][name] != flags_of[1][name]} == {"output_dir"}


def test_a_record_of_a_resumed_run_begins_anew(flags, tmp_path):
    train(flags(save_steps=1))
    train(flags(save_steps=1, max_train_steps=3, resume_from_checkpoint="latest"))
    record = tmp_path / "out/training_args.json"
    assert json.loads(record.read_text())["flags"]["resume_from_checkpoint"] == "latest"
    train(["--config", str(record), "--output_dir", str(tmp_path / "again")])
    assert_same(tmp_path / "out/unet", tmp_path / "again/unet")


def test_a_dry_run_lists_the_settings_with_their_sources(flags, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer:\n  learning_rate: 2e-4\nvalidation_prompt: [sks dog at night, sks dog]\n")
    line = flags(learning_rate=None, dry_run=True, resolution=None, train_batch_size=None)
    done = python("train_dreambooth.py", "--preset", "sd15_full_24gb", "--config", str(file), *line, "--width", "32",
                  "--height", "32")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [text.removeprefix("settings  from ") for text in done.stdout.splitlines() if text.startswith("settings")]
    by_source = dict(text.split(": ", 1) for text in found)
    assert set(by_source) == {"the command line", str(file), "preset sd15_full_24gb", "the defaults"}
    assert "max_train_steps 2" in by_source["the command line"] and "dry_run on" in by_source["the command line"]
    assert by_source[str(file)] == 'learning_rate 0.0002, validation_prompt ["sks dog at night", "sks dog"]'
    assert (
        "train_batch_size 1" in by_source["preset sd15_full_24gb"]
        and "save_steps 100" in by_source["preset sd15_full_24gb"]
    )
    assert "lora_rank none" in by_source["the defaults"] and list(by_source)[-1] == "the defaults"


@pytest.mark.parametrize("name", ["--config", "--preset"])
def test_a_bad_source_is_one_line_before_the_libraries(flags, name):
    done = python("train_dreambooth.py", *flags(), name, "missing.yaml")
    [error] = [text for text in done.stderr.splitlines() if text]
    assert done.returncode == 2 and error.startswith(f"error: {name} missing.yaml: there is no such")


def test_a_file_of_another_run_may_not_fit_this_command(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"flags": {"of_a_later_version": 1}, "steps": 3}))
    with pytest.raises(BadInput, match='"of_a_later_version": there is no such setting'):
        train(["--config", str(file)])
