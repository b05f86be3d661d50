"""The lines that describe a run, and its estimate of the disk."""

import re

import pytest
from support.commands import train

from dreambooth.run import description
from dreambooth.system import console


@pytest.mark.parametrize(
    "changes, checkpoints",
    [
        (dict(), 0),
        (dict(no_last_checkpoint=None), 1),
        (dict(save_steps=1), 2),
        (dict(save_steps=1, no_last_checkpoint=None), 2),
        (dict(max_train_steps=50, save_steps=1), 4),  # the limit of three, and the next one before the oldest goes
        (dict(max_train_steps=50, save_steps=1, checkpoints_total_limit=0), 50),
        (dict(max_train_steps=50, save_steps=20, checkpoints_total_limit=1, no_last_checkpoint=None), 2),
    ],
)
def test_the_plan_counts_checkpoints(flags, capsys, changes, checkpoints):
    train(flags(dry_run=True, **changes))
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("disk")]
    assert (f" {checkpoints} checkpoint" in line) if checkpoints else "checkpoint" not in line
    assert re.search(r"; [\d.]+ GB free for ", line) and re.search(r"disk      \d+ MB: the result \d+ MB", line)


def test_the_estimate_of_the_disk_is_what_the_files_take(flags, capsys, tmp_path):
    train(flags(no_last_checkpoint=None, ema_decay=0.5, save_format="safetensors", train_text_encoder=True))
    found = []

    def estimate(config, plan, family):
        found.append(description_of(config, plan, family))
        return found[-1]

    description_of, description._disk = description._disk, estimate
    try:
        train(flags(no_last_checkpoint=None, ema_decay=0.5, train_text_encoder=True, dry_run=True))
    finally:
        description._disk = description_of
    [disk] = found
    out = tmp_path / "out"
    sizes = {path: path.stat().st_size for path in out.rglob("*.safetensors")}
    checkpoint = sum(size for path, size in sizes.items() if "checkpoint-2" in path.parts)
    assert 0.9 * checkpoint < disk.checkpoint <= checkpoint
    result = sum(size for path, size in sizes.items() if "checkpoint-2" not in path.parts)
    assert 0.9 * result < disk.result <= result


@pytest.mark.parametrize("size, warned", [(512, True), (128, True), (64, False), (32, False), (16, False), (8, True)])
def test_a_size_that_is_not_the_models_is_warned_of(flags, capsys, size, warned):
    train(flags(resolution=size, dry_run=True))  # the twin draws 32 x 32
    complaint = f"--resolution {size}: this model draws 32 x 32 pixels, and learns badly at a size so different"
    assert (complaint in capsys.readouterr().err) == warned


@pytest.mark.parametrize("number, text", [(0, "0 MB"), (29.4e6, "29 MB"), (1e9, "1.0 GB"), (13.76e9, "13.8 GB")])
def test_sizes_are_in_units_that_people_read(number, text):
    assert console.amount(number) == text
