"""The free memory: of the machine, of a control group, of a card."""

import paddle
import pytest

from dreambooth.run.memory import room
from dreambooth.system import processes


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(room, "_GROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:  16000 kB\nMemAvailable:    8000 kB\n")
    return tmp_path


def test_the_machine_says_what_is_available(files):
    assert room.free() == 8000 * 1024


def test_a_group_of_version_2_limits_it_and_its_cached_files_give_way(files):
    (files / "memory.max").write_text("5000000\n")
    (files / "memory.current").write_text("4000000\n")
    assert room.free() == 1_000_000
    (files / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert room.free() == 1_500_000
    (files / "memory.max").write_text("max\n")
    assert room.free() == 8000 * 1024


def test_a_group_of_version_1_limits_it(files):
    (files / "memory").mkdir()
    (files / "memory" / "memory.limit_in_bytes").write_text("3000000\n")
    (files / "memory" / "memory.usage_in_bytes").write_text("1000000\n")
    (files / "memory" / "memory.stat").write_text("total_inactive_file 250000\n")
    assert room.free() == 2_250_000


def test_where_no_file_says_it_is_unknown(files):
    (files / "meminfo").unlink()
    assert room.free() is None


def test_a_card_says_what_is_available(monkeypatch):
    monkeypatch.setattr(processes, "is_on_gpu", lambda: True)
    monkeypatch.setitem(vars(paddle.base.core), "gpu_memory_available", lambda: 123)
    assert room.free() == 123


def test_this_machine_has_some():
    assert 1e8 < (room.free() or 0) < 1e14
