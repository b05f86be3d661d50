"""The end of a run: the command that draws with its result, and the lines and codes of early ends."""

import shlex
import signal
from pathlib import Path
from typing import get_args

import pytest

from dreambooth.config.config import Result
from dreambooth.config.run_sections import SavingSettings
from dreambooth.models import registry
from dreambooth.run import endings
from dreambooth.system import console
from dreambooth.system.errors import Stopped

FACTS = registry.FAMILIES["StableDiffusionPipeline"]
LAST = Path("out/checkpoint-4")


@pytest.mark.parametrize(
    "prompt", ["a photo of sks dog", 'a "sks" dog', "a $sks dog", "it's `sks`!", "一张sks狗的照片"]
)
def test_the_command_that_draws_means_the_same_to_a_shell(tmp_path, prompt):
    folder = str(tmp_path / "with space")
    words = shlex.split(endings.draw_command(folder, prompt, FACTS))
    assert words == ["python", "infer.py", "--model_path", folder, "--prompt", prompt]
    of_upscaler = endings.draw_command(folder, prompt, registry.FAMILIES["StableDiffusionUpscalePipeline"])
    assert shlex.split(of_upscaler)[4:] == ["--image", "small.png", "--prompt", prompt]


@pytest.mark.parametrize("what", get_args(Result))
def test_the_last_line_names_the_result_and_the_command(tmp_path, capsys, what):
    folder = str(tmp_path / "out")
    endings.describe_result(SavingSettings(output_dir=folder), what, "a sks dog", "3 s for 2 updates", FACTS)
    summary, line = capsys.readouterr().out.splitlines()
    command = endings.draw_command(folder, "a sks dog", FACTS, *console.script_command("infer.py"))
    assert summary == "done      3 s for 2 updates"
    assert line == f"{what:9} {folder}; to draw with it: {command}"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 143)])
def test_a_run_that_a_signal_stopped_ends_with_its_code_and_the_way_to_go_on(number, code):
    with pytest.raises(Stopped, match="after step 4; .*checkpoint-4 .*--resume_from_checkpoint latest") as stopped:
        endings.end_early(4, LAST, number)
    assert stopped.value.code == code


@pytest.mark.parametrize("what, verb", [("loss", "is"), ("gradient", "is"), ("weights", "are")])
def test_numbers_that_are_not_finite_end_the_run(what, verb):
    endings.check_finite(True, what, 5, 0.001, LAST)
    line = f"the {what} {verb} not finite at step 5, learning rate 0.001: give a lower --learning_rate"
    for last, more in ((None, ""), (LAST, f"; {LAST} is the last checkpoint, though an earlier one may be sounder")):
        with pytest.raises(Stopped) as stopped:
            endings.check_finite(False, what, 5, 0.001, last)
        assert str(stopped.value) == line + more and stopped.value.code == 1
