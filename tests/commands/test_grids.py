"""infer.py --grid with axes: the bits of single calls, drawn once, resumed, and refused in one line."""

import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.commands import ROOT, command_line, train
from support.pictures import draw_pictures

import infer
from dreambooth.drawing import sampling
from dreambooth.system.errors import BadInput


@pytest.fixture(scope="module")
def run(twin, tmp_path_factory):
    """A LoRA, its checkpoints, and a whole network with its own."""
    folder = tmp_path_factory.mktemp("run")
    draw_pictures(folder / "dog", 2)
    common = dict(max_train_steps=4, save_steps=2, learning_rate=1e-2)
    train(command_line(twin, folder / "dog", folder / "lora", **common, lora_rank=2))
    train(command_line(twin, folder / "dog", folder / "whole", **common))
    return folder


@pytest.fixture
def draw(tmp_path, capsys):
    def drawn(*arguments, folder="grid"):
        line = ["--num_inference_steps", 3, "--output_dir", tmp_path / folder, "--prompt", *arguments]
        infer.main([str(each) for each in line])
        return capsys.readouterr().out.splitlines()

    return drawn


def pixels(path):
    return np.asarray(Image.open(path))


def cells_of(folder):
    """{(values in the text): pixels} of a grid's cells."""
    found = {}
    for path in folder.glob("grid-cells/*.png"):
        text = Image.open(path).info
        names = ("prompt", "seed", "model", "guidance_scale", "steps", "scheduler", "lora_scale")
        found[tuple(text.get(name) for name in names)] = pixels(path)
    return found


@pytest.mark.parametrize(
    ("axes", "flags"),
    [
        pytest.param(["prompt", "seed=1,5"], ["--prompt {prompt}", "--seed {seed}"], marks=pytest.mark.slow),
        (["checkpoint=2,result", "guidance=1,5"], ["--model_path {checkpoint}", "--guidance_scale {guidance}"]),
        (["lora_scale=0.5,1,2", "steps=2,4"], ["--lora_scale {lora_scale}", "--num_inference_steps {steps}"]),
        pytest.param(
            ["scheduler=ddim,euler_a", "checkpoint=2"],
            ["--scheduler {scheduler}", "--model_path {checkpoint}"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["prompts, seeds", "checkpoints, guidance", "scales, steps", "schedulers, checkpoint"],
)
def test_each_cell_is_the_picture_of_a_single_call(draw, run, tmp_path, axes, flags):
    prompts = ["a sks dog", "two"] if "prompt" in axes else ["a sks dog"]
    model = run / "lora"
    printed = draw(*prompts, "--model_path", model, "--grid", *axes)
    assert printed == [str(tmp_path / "grid/grid.png"), str(tmp_path / "grid/grid.html")]
    rows, columns = infer.read_settings(
        ["--model_path", str(model), "--prompt", *prompts, "--grid", *axes]
    ).sides  # fmt: skip
    expected = []
    for row in rows.values:
        for column in columns.values:
            values = {"prompt": prompts[0], rows.name: row, columns.name: column}
            line = [word for each in flags for word in each.format(**values).split(" ", 1)]
            line = line if "--prompt" in line else ["--prompt", prompts[0], *line]
            line = line if "--model_path" in line else ["--model_path", str(model), *line]
            line = line if "--num_inference_steps" in line else ["--num_inference_steps", "3", *line]
            infer.main([*line, "--output", str(tmp_path / "single.png")])
            expected.append(pixels(tmp_path / "single.png"))
    laid = sorted(cells_of(tmp_path / "grid").values(), key=lambda each: each.tobytes())
    assert len(laid) == len(expected)
    for one, other in zip(laid, sorted(expected, key=lambda each: each.tobytes())):
        assert (one == other).all()
    assert len({each.tobytes() for each in expected}) == len(expected)  # the axes make a difference


def test_a_grid_is_drawn_once(draw, run, tmp_path, monkeypatch, capsys):
    line = ["a sks dog", "--model_path", run / "whole", "--grid", "checkpoint=all", "seed=0,1"]
    draw(*line)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "grid/grid-cells").iterdir()}
    monkeypatch.setattr(sampling, "draw", lambda *arguments: pytest.fail("it draws"))
    printed = draw(*line)
    assert printed[0] == "cells     6 of 6 are there already"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "grid/grid-cells").iterdir()} == before


def test_only_what_is_missing_is_drawn(draw, run, tmp_path, monkeypatch):
    line = ["a sks dog", "--model_path", run / "whole", "--grid", "checkpoint=all", "seed=0,1"]
    draw(*line)
    whole = cells_of(tmp_path / "grid")
    victims = sorted((tmp_path / "grid/grid-cells").iterdir())[:2]
    victims[0].unlink()
    victims[1].write_bytes(victims[1].read_bytes()[:100])
    drawn = []
    genuine = sampling.draw
    monkeypatch.setattr(sampling, "draw", lambda *given: drawn.extend(given[2]) or genuine(*given))
    assert draw(*line)[0] == "cells     4 of 6 are there already"
    assert len(drawn) == 2
    again = cells_of(tmp_path / "grid")
    assert whole.keys() == again.keys() and all((whole[key] == again[key]).all() for key in whole)


def test_an_interrupted_grid_keeps_its_pictures(run, tmp_path):
    line = ["--model_path", run / "whole", "--prompt", "a sks dog", "--num_inference_steps", 3, "--output_dir"]
    line += [tmp_path / "grid", "--grid", "seed=0-49", "guidance=1,2,3", "--batch_size", 1]
    process = subprocess.Popen([sys.executable, str(ROOT / "infer.py"), *map(str, line)], stderr=subprocess.PIPE,
                               env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                               # a shell starts what is in its background without it
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    end = time.monotonic() + 60
    while len(list((tmp_path / "grid").glob("grid-cells/*.png"))) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.decode().rstrip().endswith("interrupted")
    kept = list((tmp_path / "grid").glob("grid-cells/*.png"))
    assert 3 <= len(kept) < 150 and not (tmp_path / "grid/grid.png").exists()
    for path in kept:
        Image.open(path).load()


def test_a_run_without_a_result_draws_with_its_checkpoints(draw, run, tmp_path):
    (tmp_path / "stopped").mkdir()
    for step in (2, 4):
        (tmp_path / f"stopped/checkpoint-{step}").symlink_to(run / f"lora/checkpoint-{step}")
    draw("a sks dog", "--model_path", tmp_path / "stopped", "--grid", "checkpoint=all", "lora_scale=0.5,1")
    assert len(cells_of(tmp_path / "grid")) == 4
    with pytest.raises(BadInput, match="--model_path"):
        infer.main(["--model_path", str(tmp_path / "stopped"), "--prompt", "a", "--grid", "seed=0,1"])


def test_a_grid_begins_from_a_picture_too(draw, run, tmp_path):
    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "start.png")
    start = ["--image", tmp_path / "start.png", "--strength", 0.7]
    draw("a sks dog", "--model_path", run / "whole", *start, "--grid", "seed=0,1")
    [single] = draw("a sks dog", "--model_path", run / "whole", *start, folder="single")
    found = cells_of(tmp_path / "grid")
    assert len(found) == 2 and any((each == pixels(single)).all() for each in found.values())


def test_a_file_of_ones_own_has_its_page_and_cells_beside_it(draw, run, tmp_path):
    printed = draw("a", "--model_path", run / "whole", "--grid", "seed=0,1", "--output", tmp_path / "mine.png")
    assert printed == [str(tmp_path / "mine.png"), str(tmp_path / "mine.html")]
    assert len(list((tmp_path / "mine-cells").iterdir())) == 2


def test_one_model_at_a_time_is_in_memory(draw, run, monkeypatch):
    order = []
    genuine = infer.load
    monkeypatch.setattr(infer, "load", lambda own: order.append(own.model_path) or genuine(own))
    draw("a", "b", "--model_path", run / "whole", "--grid", "prompt", "checkpoint=all")
    assert order == [str(run / "whole/checkpoint-2"), str(run / "whole/checkpoint-4"), str(run / "whole")]


def test_what_can_not_be_drawn_is_refused_before_the_model_is_loaded(run, monkeypatch, tmp_path):
    monkeypatch.setattr(infer, "load", lambda own: pytest.fail("it loads"))
    for grid, reason in (("checkpoint=7", "has no whole checkpoint-7"), ("lora_scale=1", "it needs --lora")):
        with pytest.raises(BadInput, match=reason):
            infer.main(["--model_path", str(run / "whole"), "--prompt", "a", "--grid", grid])


def test_a_base_that_changes_makes_the_grid_of_its_lora_anew(draw, twin, tmp_path):
    draw_pictures(tmp_path / "dog", 2)
    shutil.copytree(twin, tmp_path / "base")
    flags = dict(max_train_steps=1, learning_rate=1e-2, lora_rank=2, last_checkpoint=True)
    train(command_line(tmp_path / "base", tmp_path / "dog", tmp_path / "lora", **flags))
    line = ["a sks dog", "--model_path", tmp_path / "lora", "--grid", "checkpoint=all"]
    draw(*line)
    assert draw(*line)[0] == "cells     2 of 2 are there already"
    before = {path: pixels(path) for path in (tmp_path / "grid/grid-cells").iterdir()}
    path = tmp_path / "base/scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"v_prediction"'))
    draw(*line)
    anew = {*(tmp_path / "grid/grid-cells").iterdir()} - {*before}
    assert len(anew) == 2
    assert all((pixels(path) != earlier).any() for path in anew for earlier in before.values())


def test_on_a_card_each_cell_is_drawn_alone(draw, run, monkeypatch):
    """There a batch may change bits, which only the CPU's drawing looks for."""
    sizes = []
    genuine = sampling.draw
    monkeypatch.setattr(sampling, "draw", lambda *given: sizes.append(given[1].batch_size) or genuine(*given))
    line = ["a", "b", "--model_path", run / "whole", "--grid", "seed=0"]
    draw(*line, folder="processor")
    monkeypatch.setattr(infer, "processes", SimpleNamespace(is_on_gpu=lambda: True))  # for the command alone
    draw(*line, folder="card")
    assert sizes == [4, 1]
