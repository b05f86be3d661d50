"""benchmarks.prior: class pictures by two solvers, taken in turn."""

from benchmarks import prior


def test_the_command_compares_time_and_quality(capsys, monkeypatch):
    monkeypatch.setattr(prior, "PLAIN_STEPS", 4)
    monkeypatch.setattr(prior, "CLASSES", ("dog", "house"))
    prior.main(["--pictures", "2"])
    said = capsys.readouterr().out.splitlines()
    plain, fast = ([each.strip() for each in line.strip("|").split("|")] for line in said[2:4])
    assert plain[0] == "PNDMScheduler, 4 steps" and fast[0].startswith("--prior_scheduler dpmsolver++")
    assert plain[2] == "1.00" and all(-1 <= float(each[3]) <= 1 and float(each[4]) > 0 for each in (plain, fast))


def test_another_model_has_no_clip_of_its_own():
    assert prior.quality({}, "full") == ("", "")
