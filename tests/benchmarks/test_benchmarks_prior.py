"""benchmarks.prior: class pictures by two schedulers, drawn in turn."""

import pytest

from benchmarks import prior, subjects


@pytest.mark.slow
def test_the_command_compares_time_and_quality(capsys, monkeypatch):
    monkeypatch.setattr(prior, "PLAIN_STEPS", 4)
    monkeypatch.setattr(prior, "CLASSES", ("dog", "house"))
    prior.main(["--pictures", "2"])
    printed = capsys.readouterr().out.splitlines()
    plain, fast = ([each.strip() for each in line.strip("|").split("|")] for line in printed[2:4])
    assert plain[0] == "PNDMScheduler, 4 steps" and fast[0].startswith("--prior_scheduler dpmsolver++")
    assert plain[2] == "1.00" and all(-1 <= float(each[3]) <= 1 and float(each[4]) > 0 for each in (plain, fast))


def test_the_quality_is_measured_only_for_the_embedded_model(twin, capsys, monkeypatch):
    monkeypatch.setattr(prior, "PLAIN_STEPS", 2)
    monkeypatch.setattr(prior, "CLASSES", ("dog",))
    monkeypatch.setattr(subjects, "_FOLDER_DEFAULTS", (32, 1, 2))
    prior.main(["--model", str(twin), "--pictures", "1", "--prior_inference_steps", "2"])
    for line in capsys.readouterr().out.splitlines()[2:4]:
        assert [each.strip() for each in line.split("|")[4:6]] == ["", ""]


def test_pictures_are_drawn_in_turn_and_each_is_timed():
    order = []

    def drawing(name):
        for number in range(3):
            order.append(f"{name} {number}")
            yield f"picture {name} {number}"

    drawn = prior.draw_in_turn({"plain": drawing("plain"), "fast": drawing("fast")}, 2)
    assert order == ["plain 0", "fast 0", "plain 1", "fast 1"]
    assert [picture for picture, _ in drawn["fast"]] == ["picture fast 0", "picture fast 1"]
    assert all(seconds >= 0 for _, seconds in drawn["plain"])
