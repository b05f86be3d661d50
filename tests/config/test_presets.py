"""The presets: each is valid, short, says what it is for, and lies beneath a file and the command line."""

import json

import pytest
from test_config import REQUIRED

from dreambooth.config.checks import doubts
from dreambooth.config.parser import read_config
from dreambooth.config.sources import presets
from dreambooth.system.errors import BadInput

FILES = presets._files()
OWN = [part for name in ("--instance_data_dir", "--instance_prompt") for part in (name, REQUIRED[name])]


def test_the_presets_of_the_documents_are_there():
    names = {file.stem for file in FILES}
    assert {"sd15_lora_8gb", "sd15_full_24gb", "taiyi_lora_12gb", "style_lora", "face_full"} <= names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_preset_is_a_short_file_with_a_comment_and_valid_settings(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert 8 <= len(lines) <= 20 and lines[0].startswith("# ") and lines[1].startswith("# ")
    prior = ["--class_prompt", "a dog", "--class_data_dir", "classes"]
    config = read_config([*OWN, *prior, "--preset", file.stem], "")
    assert config.sources["resolution"] == f"preset {file.stem}"
    assert not [each for each in doubts.warnings(config) if "--class" not in each]


def test_the_list_has_a_line_for_each(capsys):
    with pytest.raises(SystemExit) as ended:
        read_config(["--preset", "list"], "")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [file.stem for file in FILES]
    assert all(len(line.split()) > 4 for line in lines)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match="--preset sd15_lora_8g: there is no such preset; did you mean sd15_lora_8gb?"):
        read_config([*OWN, "--preset", "sd15_lora_8g"], "")
    for name in ("xyz", "../presets/sd15_lora_8gb", ""):
        with pytest.raises(BadInput, match="no such preset|it is empty"):
            read_config([*OWN, "--preset", name or " "], "")


def test_a_file_lies_over_a_preset_and_the_command_line_over_both(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"lora_rank": 16, "learning_rate": 2e-4}))
    line = [*OWN, "--preset", "sd15_lora_8gb", "--config", str(path), "--learning_rate", "3e-4"]
    config = read_config(line, "")
    assert (config.lora.lora_rank, config.optimizer.learning_rate) == (16, 3e-4)
    assert config.sources["lora_rank"] == str(path) and config.sources["train_batch_size"] == "preset sd15_lora_8gb"
