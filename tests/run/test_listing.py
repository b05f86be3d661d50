"""What a record says: settings, differences, machine, and commands that a shell reads as they were meant."""

import shlex

import pytest
from support.finished_runs import make_run

from dreambooth.config import parser
from dreambooth.run.report import listing


def commands(folder, record, has_result=True, checkpoint=None):
    return {what: shlex.split(text) for what, text in listing.commands(folder, record, has_result, checkpoint)}


@pytest.fixture
def record(tmp_path):
    return make_run(tmp_path / "out", tmp_path / "pictures")


def test_settings_that_were_given_are_told_from_the_defaults(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures", lora_rank=4, lora_targets=("all",), center_crop=True)
    found = {each.name: each for topic in listing.topics(record["flags"]) for each in topic.settings}
    assert found["lora_rank"].is_changed and found["lora_rank"].value == "4"
    assert found["lora_targets"].is_changed and found["center_crop"].value == "yes"
    assert not found["optimizer"].is_changed and found["optimizer"].value == "adamw"
    assert found["prior_loss_weight"].help


def test_a_record_of_an_earlier_version_lacks_settings_and_may_have_others(record):
    flags = {name: value for name, value in record["flags"].items() if name != "optimizer"} | {"gone": 1}
    found = [each.name for topic in listing.topics(flags) for each in topic.settings]
    assert "optimizer" in found and "gone" not in found


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ((), "-"), (True, "yes"), (5e-6, "5e-06"), (["a", "b"], "a, b"), ({"a": 1}, '{"a": 1}'),
     ("https://somebody:secret@host/model", "https://***@host/model")],
)  # fmt: skip
def test_values_are_shown_as_people_read_them_and_without_secrets(value, text):
    assert listing.shown(value) == text


def test_runs_are_compared_by_the_settings_that_differ(tmp_path):
    several = [
        make_run(tmp_path / name, tmp_path / "pictures", learning_rate=rate, steps=(2, steps))
        for name, rate, steps in (("a", 1e-4, 4), ("b", 5e-6, 4), ("c", 5e-6, 6))
    ]
    assert listing.differences(several) == [
        ("updates", ["4", "4", "6"]),
        ("max_train_steps", ["4", "4", "6"]),
        ("learning_rate", ["0.0001", "5e-06", "5e-06"]),
    ]
    assert listing.differences(several[:1] * 2) == []


def test_a_log_gets_numbers_and_texts_alone(record):
    found = listing.compared(record)
    assert found["learning_rate"] == 5e-6 and found["updates"] == 4 and found["lora_rank"] == "-"
    assert all(type(value) in (int, float, str) for value in found.values())


def test_the_machine_is_shown_whatever_the_record_has(record):
    rows = dict(listing.machine_rows(record))
    assert rows["device"] == "a processor (AVX2), 2 threads" and rows["python"] == "3.11"
    for machine in ("a machine", None, [1], {"card": "x"}):
        assert dict(listing.machine_rows({**record, "machine": machine, "versions": None}))["device"]


def test_the_command_that_draws_has_the_prompt_as_one_argument(tmp_path):
    for prompt in ('a "photo"; rm -rf ~ of $HOME `x`', "a dog's life", "雪地里的 sks 狗", "-1"):
        record = make_run(tmp_path / "out", tmp_path / "pictures", prompts=(prompt,))
        line = commands(tmp_path / "out", record)["draw"]
        assert line[line.index("--prompt") + 1] == prompt and line[line.index("--model_path") + 1].endswith("out")


def test_the_same_run_can_be_made_again_from_the_command(tmp_path):
    given = dict(
        learning_rate=3e-4,
        lora_rank=4,
        lora_targets=("attention", "feed_forward"),
        with_prior_preservation=True,
        class_prompt='a photo of a dog\'s "friend"',
        class_data_dir=str(tmp_path / "of class"),
        last_checkpoint=False,
    )
    prompts = ("one; two", "three 'four'")
    record = make_run(tmp_path / "out put", tmp_path / "my pictures", prompts=prompts, **given)
    line = commands(tmp_path / "out put", record)["again"]
    assert line[1].endswith("train_dreambooth.py")
    assert parser.read_config(line[2:], None).flat() == parser.read_config(line[2:], None).flat()
    made = parser.read_config(line[2:], None).flat()
    same = {name: list(value) if isinstance(value, tuple) else value for name, value in made.items()}
    assert same == record["flags"]


def test_what_can_be_done_depends_on_the_state(tmp_path, record):
    checkpoint = tmp_path / "out/checkpoint-2"
    assert {*commands(tmp_path / "out", record)} == {"draw", "again", "export"}
    assert {*commands(tmp_path / "out", record, True, checkpoint)} == {"draw", "grid", "again", "further", "export"}
    assert {*commands(tmp_path / "out", record, False, checkpoint)} == {"draw", "resume"}
    assert commands(tmp_path / "out", record, False) == {}
    resumed = commands(tmp_path / "out", record, False, checkpoint)["resume"]
    assert resumed[-2:] == ["--resume_from_checkpoint", "latest"]
    further = commands(tmp_path / "out", record, True, checkpoint)["further"]
    assert further[further.index("--max_train_steps") + 1] == "8"


def test_a_result_is_exported_to_what_most_others_read(tmp_path, record):
    def format(**changes):
        line = commands(tmp_path / "out", {**record, **changes})["export"]
        return line[line.index("--format") + 1]

    assert format() == "single_file"
    assert format(flags={**record["flags"], "lora_rank": 4}) == "lora_web_ui"
    assert format(flags={**record["flags"], "lora_rank": 4, "lora_merge": True}) == "single_file"
    assert format(base_index={"_class_name": "UniDiffuserPipeline"}) == "diffusers"
    assert format(base_index="damaged") == "diffusers"


def test_a_model_that_enlarges_draws_from_a_picture(tmp_path, record):
    record = {**record, "base_index": {"_class_name": "StableDiffusionUpscalePipeline"}}
    assert "--image" in commands(tmp_path / "out", record)["draw"]
