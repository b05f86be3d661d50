"""A full disk, at any moment of writing: one line, exit code 1, and what was whole before stays whole and loads."""

import json
import re
from dataclasses import replace
from typing import get_args

import pytest
from PIL import Image
from support.commands import command_line, train
from support.disks import FILLER, hidden
from support.families import load_pipeline

from dreambooth import metrics
from dreambooth.config.run_sections import SaveFormat
from dreambooth.drawing import prior_pictures
from dreambooth.files import atomic, records
from dreambooth.run import checkpoints, output_folder
from dreambooth.run.choosing import validation
from dreambooth.run.drawings import names
from dreambooth.system import disk

LEVELS = [0, 4, 8, 20, 64, 128, 256, 400, 600, 800, *range(900, 1300, 20), 1600, 2000, *range(2900, 3200, 15)]  # KiB


@pytest.fixture(scope="module")
def recorded(twin, pictures, tmp_path_factory):
    """The arguments with which a short run writes its checkpoint and its pipeline."""
    calls = {}
    folder = tmp_path_factory.mktemp("recorded") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((checkpoints, "save"), (output_folder, "save_result")):
            patch.setattr(module, name, lambda *arguments, name=name: calls.setdefault(name, arguments) and folder)
        train(command_line(twin, pictures, folder, max_train_steps=1, save_steps=1))
    return calls


def test_a_checkpoint_on_a_disk_that_fills_up(recorded, small_disk):
    _, _, *learned = recorded["save"]
    before = checkpoints.save(small_disk / "out", 7, *learned)
    state = records.read_state(before)
    size = sum(path.stat().st_size for path in atomic.files_in(before))
    found = set()
    for left in LEVELS:
        small_disk.fill(left * 1024)
        free = disk.free_space(small_disk)
        try:
            checkpoints.save(small_disk / "out", 8, *learned)
            atomic.remove(small_disk / "out/checkpoint-8")
            found.add("written")
        except disk.DiskFull as error:
            line = rf"{small_disk}/out/checkpoint-8: the disk is full(?:, (\d+) MB are missing)?; nothing of it is left"
            missing = re.fullmatch(line, str(error))[1]
            assert missing is None or abs(int(missing) * 10**6 - (size - free)) < 1.1 * 10**6
            found.add("refused" if missing else "failed")
        assert not hidden(small_disk) and disk.free_space(small_disk) == free
        assert checkpoints.scan(small_disk / "out") == ([(before, state)], [])
    assert found == {"refused", "failed", "written"}


@pytest.mark.parametrize("save_format", get_args(SaveFormat))
def test_a_pipeline_on_a_disk_that_fills_up(recorded, small_disk, save_format):
    family, settings, result, record, card = recorded["save_result"]
    settings = replace(settings, output_dir=str(small_disk / "out"), save_format=save_format)
    output_folder.save_result(family, settings, result, {**record, "steps": "the earlier one"}, card)
    earlier = {path: path.read_bytes() for path in atomic.files_in(small_disk / "out")}
    found = set()
    for left in LEVELS[::3]:
        small_disk.fill(left * 1024)
        free = disk.free_space(small_disk)
        try:
            output_folder.save_result(family, settings, result, record, card)
            found.add("written")
            break
        except disk.DiskFull as error:
            found.add("full")
            line = (
                rf"the pipeline in {small_disk}/out: the disk is full(, \d+ MB are missing)?; the earlier one is whole"
            )
            assert re.fullmatch(line, str(error))
        assert not hidden(small_disk) and disk.free_space(small_disk) == free
        assert {path: path.read_bytes() for path in atomic.files_in(small_disk / "out")} == earlier
    assert found == {"full", "written"}
    assert json.loads((small_disk / "out/training_args.json").read_text())["steps"] == record["steps"]
    load_pipeline(small_disk / "out")


@pytest.mark.parametrize("what", ["class picture", "sample", "sheet", "metrics", "drawing"])
def test_a_picture_on_a_disk_that_fills_up(small_disk, what):
    picture = Image.effect_noise((64, 64), 100).convert("RGB")
    write = {
        "class picture": lambda: prior_pictures._save(picture, small_disk, 3, {"prompt": "a dog", "model": "m"}),
        "sample": lambda: validation.save_samples(small_disk, 3, ["a dog"], [[picture]], 0),
        "sheet": lambda: atomic.write_picture(small_disk / "sheet.png", picture),
        "metrics": lambda: metrics._save_pictures([[picture]], small_disk / "pictures", ["a dog"], {}),
        "drawing": lambda: names.save(picture, small_disk / "drawn.png", {"prompt": "x" * 500}),
    }[what]
    found = set()
    for left in (0, 4, 8, 12, 16, 20, 40):
        small_disk.fill(left * 1024)
        free = disk.free_space(small_disk)
        try:
            write()
            [path] = [path for path in atomic.files_in(small_disk) if path.name != FILLER]
            with Image.open(path) as image:
                image.load()
            path.unlink()
            found.add("written")
        except disk.DiskFull as error:
            assert re.fullmatch(r"/.*\.png: the disk is full; nothing of it is left", str(error))
            assert disk.free_space(small_disk) in (free, free - 4096)  # its folder may be there
            found.add("full")
        assert not hidden(small_disk)
    assert found == {"full", "written"}
