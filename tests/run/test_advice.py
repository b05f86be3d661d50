"""The settings that fit: they do, none of their flags is in vain, and the least harmful come first."""

import pytest
from support.known_sizes import STABLE_DIFFUSION_1
from support.settings import small_config

from dreambooth.run.memory import advice, estimate
from dreambooth.training.optimizers.table import OPTIMIZERS


def peak_of(config):
    state = OPTIMIZERS[config.optimizer.optimizer].bytes_per_weight
    return estimate.peak(config, STABLE_DIFFUSION_1, estimate.CARD, state).total


def config_of(**changes):
    return small_config(**{"resolution": 512, "train_batch_size": 1, **changes})


def nearest(gigabytes, **changes):
    return advice.nearest(config_of(**changes), peak_of, gigabytes * 1e9)


@pytest.mark.parametrize("gigabytes", [5.9, 7, 8, 10, 12, 14, 15])
@pytest.mark.parametrize("changes", [{}, dict(train_text_encoder=True), dict(train_batch_size=4)])
def test_what_is_named_fits(gigabytes, changes):
    found = nearest(gigabytes, **{"train_batch_size": 1, **changes})
    assert found
    for flags, peak in found:
        assert peak <= gigabytes * 1e9
        for flag in flags.split(" --"):
            assert flags.count(flag.split()[0].removeprefix("--")) == 1


def test_the_least_harmful_change_comes_first():
    whole = peak_of(config_of()) / 1e9
    [(flags, _), (lora, _)] = nearest(whole - 0.3)
    assert flags == "--early_update" and lora.startswith("--lora_rank 4")
    [(flags, _), _] = nearest(whole - 2.9)
    assert flags == "--early_update --gradient_checkpointing"
    [(flags, _), _] = nearest(whole - 4)
    assert flags == "--optimizer adamw8bit"  # the milder ones do not fit, and beside this one they are in vain
    assert "adafactor" not in flags and "--resolution" not in flags
    [(flags, _), _] = nearest(whole, train_batch_size=8)
    assert flags.startswith("--train_batch_size 1 --gradient_accumulation_steps 8")


def test_a_lora_is_advised_no_whole_network_and_no_other_optimizer():
    needed = peak_of(config_of(lora_rank=4, train_batch_size=2))
    [(flags, _)] = nearest(needed / 1e9 - 0.2, lora_rank=4, train_batch_size=2)
    assert "lora" not in flags and "optimizer" not in flags


def test_nothing_fits_one_gigabyte():
    assert nearest(1) == []


def test_what_cannot_be_combined_is_not_named():
    for flags, _ in nearest(11, max_grad_norm=1.0):
        assert "--early_update" not in flags


def test_what_the_run_could_not_take_is_not_named():
    config = config_of(train_batch_size=1)
    whole = peak_of(config)
    every = {"--early_update", "--gradient_checkpointing", "--optimizer", "--mixed_precision", "--resolution"}
    for flag in every:
        for room in (0.3, 2.9, 4, 8):
            found = advice.nearest(config, peak_of, whole - room * 1e9, {flag})
            assert found and not [flags for flags, _ in found if flag in flags]
    assert all(flags.startswith("--lora_rank") for flags, _ in advice.nearest(config, peak_of, whole - 1e9, every))


def test_a_lora_goes_before_a_lower_resolution():
    config = config_of(train_batch_size=1)
    found = advice.nearest(config, lambda it: 5 if it.lora.lora_rank or it.pictures.size[0] < 512 else 10, 6)
    assert [flags for flags, _ in found] == ["--lora_rank 4", "--resolution 384"]
