"""The plan's line on memory, the warning before anything is loaded, and the one line of a run without room."""

import re

import pytest
from support.cards import pretend
from support.commands import one_error, train
from support.known_sizes import STABLE_DIFFUSION_1
from support.settings import small_config

import train_dreambooth
from dreambooth.models import loading
from dreambooth.run.memory import estimate, room
from dreambooth.run.memory.budget import Budget
from dreambooth.system import processes
from dreambooth.training.updates import Updates


def budget(gigabytes, **changes):
    config = small_config(**{"resolution": 512, "train_batch_size": 1, **changes})
    return Budget(config, STABLE_DIFFUSION_1, estimate.CARD, gigabytes and gigabytes * 1e9)


def test_a_run_that_fits_has_no_warning(capsys):
    budget(24).warn()
    budget(None).warn()
    assert capsys.readouterr().err == ""
    assert re.fullmatch(r"about 1\d\.\d GB at the peak, in training: .*; 24\.0 GB free", budget(24).line())


def test_one_that_does_not_is_told_what_fits(capsys):
    budget(8).warn()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the card's memory: the run needs about 1")
    assert "8.0 GB are free; what fits: --early_update --gradient_checkpointing --optimizer ada" in line
    assert re.search(r"GB\), or --lora_rank 4.* \(\d\.\d GB\)$", line)
    budget(1).warn()
    assert "no setting of this tool makes it fit" in capsys.readouterr().err


def test_the_warning_comes_before_the_model_is_loaded(flags, monkeypatch, capsys):
    def stop(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "free", lambda: 1e6)
    monkeypatch.setattr(loading, "load_family", stop)
    with pytest.raises(KeyboardInterrupt):
        train(flags())
    assert "memory: the run needs about" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError("(External) CUDA error(2), out of memory."),
        SystemError("ResourceExhaustedError: \n\n Out of memory error on GPU 0"),
    ],
)
def test_a_run_without_room_ends_in_one_line_and_names_its_last_checkpoint(flags, monkeypatch, capfd, error):
    backward = Updates.backward

    def fail(self, loss):
        if self.schedule.last_epoch == 1:
            raise error
        backward(self, loss)

    monkeypatch.setattr(Updates, "backward", fail)
    line = one_error(capfd, train_dreambooth.main, flags(save_steps=1, max_train_steps=3))
    assert line.startswith("error: out of memory; ")
    assert "checkpoint-1 is whole: --resume_from_checkpoint latest goes on with it" in line


def test_another_error_stays_what_it_is(flags, monkeypatch):
    def fail(self, loss):
        raise RuntimeError("odd")

    monkeypatch.setattr(Updates, "backward", fail)
    with pytest.raises(RuntimeError, match="odd"):
        train(flags())


def test_a_card_has_its_kernels_in_the_plan(twin, monkeypatch):
    pretend(monkeypatch, "Tesla T4", "7.5")
    monkeypatch.setattr(room, "free", lambda: 15e9)
    monkeypatch.setenv("FLAGS_cudnn_deterministic", "1")
    found = Budget.of(small_config(pretrained_model_name_or_path=str(twin), mixed_precision="fp16"))
    assert found.attention.startswith("quadratic") and found._place.most_scores > 1e12
    monkeypatch.delenv("FLAGS_cudnn_deterministic")
    found = Budget.of(small_config(pretrained_model_name_or_path=str(twin), mixed_precision="fp16"))
    assert found.attention.startswith("memory-efficient") and found._place.most_scores == 0


def test_the_flags_that_a_run_refuses_are_known(twin, unidiffuser_twin, monkeypatch):
    def impossible(model):
        return set(Budget.of(small_config(pretrained_model_name_or_path=str(model)))._impossible)

    assert impossible(twin) == {"--mixed_precision"}  # on a CPU
    assert impossible(unidiffuser_twin) == {"--mixed_precision", "--gradient_checkpointing", "--resolution"}
    monkeypatch.setattr(room, "free", lambda: 15e9)
    for capability, refused in (("6.1", {"--mixed_precision"}), ("7.5", set())):
        pretend(monkeypatch, "a card", capability)
        assert impossible(twin) == refused
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    assert impossible(twin) == {"--early_update"}
