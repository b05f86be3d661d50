"""The disk that a run needs, beside what it writes."""

import re

import pytest
from support.commands import train

from dreambooth.run import disk_needs


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
        found.append(needs_of(config, plan, family))
        return found[-1]

    needs_of, disk_needs.needs = disk_needs.needs, estimate
    try:
        train(flags(no_last_checkpoint=None, ema_decay=0.5, train_text_encoder=True, dry_run=True))
    finally:
        disk_needs.needs = needs_of
    [disk] = found
    out = tmp_path / "out"
    sizes = {path: path.stat().st_size for path in out.rglob("*.safetensors")}
    checkpoint = sum(size for path, size in sizes.items() if "checkpoint-2" in path.parts)
    assert 0.9 * checkpoint < disk.checkpoint <= checkpoint
    result = sum(size for path, size in sizes.items() if "checkpoint-2" not in path.parts)
    assert 0.9 * result < disk.result <= result
