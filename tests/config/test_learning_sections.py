"""How the model learns: the settings of a LoRA, of the loss and of the optimizer."""

import dataclasses
from typing import get_args

import pytest

from dreambooth.config import learning_sections
from dreambooth.config.learning_sections import LoraSettings, ObjectiveSettings
from dreambooth.system.errors import BadInput


def test_schedules_without_warmup_or_end_are_schedules():
    assert {*learning_sections.SCHEDULES_WITHOUT_WARMUP, *learning_sections.SCHEDULES_WITHOUT_END} <= set(
        get_args(learning_sections.Schedule)
    )


def test_a_lora_has_the_scale_one_by_default():
    assert LoraSettings().course() == {}
    lora = LoraSettings(lora_rank=4)
    assert (lora.scale_of("attention"), lora.dropout) == (1, 0.0)
    assert LoraSettings(lora_rank=4, lora_alpha=2.0).scale_of("attention") == 0.5


def test_a_target_may_have_its_own_rank_and_alpha():
    lora = LoraSettings(
        lora_rank=8,
        lora_targets=("all", "conv_in$", "attention"),
        lora_ranks=("time=1", "conv_in$=2"),
        lora_alphas=("convolution=4", "time=3"),
    )
    assert lora.targets == ("attention", "feed_forward", "convolution", "time", "conv_in$")
    assert [lora.rank_of(each) for each in lora.targets] == [8, 8, 8, 1, 2]
    assert [lora.scale_of(each) for each in lora.targets] == [1, 1, 0.5, 3, 1]
    assert lora.has_scales and not LoraSettings(lora_rank=8, lora_alpha=3.0).has_scales
    everywhere = LoraSettings(lora_rank=8, lora_targets=("all",), lora_ranks=("all=2", "attention=4"))
    assert [everywhere.rank_of(each) for each in everywhere.targets] == [4, 2, 2, 2]


def test_the_scale_of_rslora_falls_with_the_root_of_the_rank():
    assert LoraSettings(lora_rank=16, lora_alpha=8.0, use_rslora=True).scale_of("attention") == 2


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(), "a LoRA of rank 4"),
        (dict(use_dora=True), "a DoRA of rank 4"),
        (dict(lora_targets=("attention", "time")), "a LoRA of rank 4 (attention, time)"),
        (
            dict(lora_targets=("attention", "time"), lora_ranks=("time=1",)),
            "a LoRA of rank 4 (attention), rank 1 (time)",
        ),
    ],
)
def test_a_lora_is_put_into_words(changes, words):
    assert LoraSettings(lora_rank=4, **changes).in_words == words


@pytest.mark.parametrize(
    "changes, course",
    [
        (dict(), {}),
        (dict(lora_targets=("attention",), loraplus_lr_ratio=1.0), {}),  # the same as without
        (dict(lora_targets=("time", "attention")), {"lora_targets": ["time", "attention"]}),
        (dict(lora_ranks=("attention=2",)), {"lora_ranks": {"attention": 2}}),
        (dict(lora_alphas=("all=2",), lora_targets=("time",)), None),
        (dict(use_dora=True, use_rslora=True), {"use_dora": True, "use_rslora": True}),
        (dict(loraplus_lr_ratio=8.0), {"loraplus_lr_ratio": 8.0}),
    ],
)
def test_the_course_has_what_differs_from_earlier_versions(changes, course):
    if course is None:
        with pytest.raises(BadInput, match="attention is none of --lora_targets, time"):
            LoraSettings(lora_rank=4, **changes)
        return
    plain = {"lora_rank": 4, "lora_alpha": 4, "lora_dropout": 0.0}
    assert LoraSettings(lora_rank=4, **changes).course() == {**plain, **course}


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(lora_targets=("(",)), r"--lora_targets \(: no pattern"),
        (dict(lora_targets=("attention", " ")), "--lora_targets: it is empty"),
        (dict(lora_ranks=("attention",)), "--lora_ranks attention: must be a target and a number"),
        (dict(lora_ranks=("attention=four",)), "--lora_ranks attention=four: must be a target and a number"),
        (dict(lora_ranks=("time=4",)), "--lora_ranks time=4: time is none of --lora_targets, attention"),
        (dict(lora_ranks=("attention=0",)), "--lora_ranks attention=0: must be a whole number from 1 to 65535"),
        (dict(lora_ranks=("attention=1e30",)), r"--lora_ranks attention=1e\+30: must be a whole number"),
        (dict(lora_ranks=("attention=1.5",)), "--lora_ranks attention=1.5: must be a whole number"),
        (dict(lora_ranks=("attention=inf",)), "--lora_ranks attention=inf: must be a whole number"),
        (dict(lora_alphas=("attention=0",)), "--lora_alphas attention=0: must be more than 0"),
        (dict(lora_alphas=("attention=nan",)), "--lora_alphas attention=nan: must be more than 0"),
    ],
)
def test_a_bad_target_is_refused_in_one_line(changes, said):
    with pytest.raises(BadInput, match=f"^{said}"):
        LoraSettings(lora_rank=4, **changes)


OF_LORA = [
    dict(lora_alpha=1.0),
    dict(lora_dropout=0.1),
    dict(lora_merge=True),
    dict(lora_targets=("all",)),
    dict(lora_ranks=("time=1",)),
    dict(lora_alphas=("time=1",)),
    dict(use_dora=True),
    dict(use_rslora=True),
    dict(loraplus_lr_ratio=2.0),
]


def test_every_setting_of_a_lora_needs_a_rank_and_is_recorded_with_one_alone():
    names = {each.name for each in dataclasses.fields(LoraSettings)} - {"lora_rank"}
    assert {name for changes in OF_LORA for name in changes} == names


@pytest.mark.parametrize("changes", OF_LORA)
def test_a_setting_of_a_lora_needs_a_rank(changes):
    with pytest.raises(BadInput, match=f"--{next(iter(changes))} needs --lora_rank"):
        LoraSettings(**changes)


def test_timesteps_have_a_range():
    ObjectiveSettings(min_timestep=5, max_timestep=6)
    with pytest.raises(BadInput, match="--max_timestep 5: must be more than --min_timestep 5"):
        ObjectiveSettings(min_timestep=5, max_timestep=5)


def test_the_huber_loss_has_a_turning_point_and_the_squared_error_none():
    assert ObjectiveSettings(huber_c=0.5).huber is None
    assert ObjectiveSettings(loss_type="huber", huber_c=0.5).huber == 0.5
