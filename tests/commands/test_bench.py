"""python -m dreambooth.bench on tiny models: the whole command, its resume, and its bad input."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.clips import build_clip
from support.commands import ROOT
from support.pictures import draw_pictures

from dreambooth import bench
from dreambooth.drawing.instruments import dreambench
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.system.errors import BadInput, Stopped

DINO = Path(__file__).parents[1] / "drawing/genuine/dino"
LIST = """subject_name,class
ball,ball
dog,dog
prompt_list = [
'a {0} {1} on grass'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]
prompt_list = [
'a {0} {1} in snow'.format(unique_token, class_token),
'a wet {0} {1}'.format(unique_token, class_token)
]
"""
RECIPE = dict(
    resolution=32, max_train_steps=2, train_batch_size=1, prior_inference_steps=2, with_prior_preservation=True,
    num_class_images=2, last_checkpoint=False, lora_rank=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("bench") / "clip")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw_pictures(folder / "ball", 2)
    draw_pictures(folder / "dog", 3)
    (folder / dreambench.LIST).write_text(LIST)
    return folder


@pytest.fixture
def line(twin, clip, data, tmp_path):
    """The command line as a function of what is to be different."""
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    settings = dict(
        data=data, model=twin, config=tmp_path / "recipe.json", clip_model_path=clip, dino_model_path=DINO,
        num_images=2, num_inference_steps=2, output_dir=tmp_path / "bench",
    )  # fmt: skip

    def make(**changes):
        given = {name: value for name, value in {**settings, **changes}.items() if value is not None}
        return [
            part
            for name, value in given.items()
            for part in ([f"--{name}"] if value is True else [f"--{name}", *(str(value).split())])
        ]

    return make


@pytest.fixture(scope="module")
def made(twin, clip, data, tmp_path_factory):
    """The folder and the output of a finished benchmark."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    line = ["-m", "dreambooth.bench", "--data", data, "--model", twin, "--config", folder / "recipe.json",
            "--clip_model_path", clip, "--dino_model_path", DINO, "--num_images", 2, "--num_inference_steps", 2,
            "--output_dir", folder / "bench"]  # fmt: skip
    done = subprocess.run([sys.executable, *map(str, line)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bench", done.stdout


def test_every_subject_is_taught_drawn_and_measured(made, data, clip):
    folder, said = made
    report = json.loads((folder / "figures.json").read_text())
    assert set(report["subjects"]) == {"ball", "dog"}
    for name in ("ball", "dog"):
        pictures = sorted(path.name for path in (folder / name / "pictures").iterdir())
        assert pictures == ["0-0.png", "0-1.png", "1-0.png", "1-1.png"]
        assert not (folder / name / "model").exists()  # 30 models would fill a disk
        figures = report["subjects"][name]
        assert set(figures) == {"DINO", "CLIP-I", "CLIP-T"} and None not in figures.values()
    assert "subject   1 of 2: ball, a ball" in said and "subject   2 of 2: dog, a dog" in said
    [row] = [text for text in said.splitlines() if text.startswith("this run  ")]
    mean = np.mean([report["subjects"][name]["CLIP-I"] for name in ("ball", "dog")])
    assert float(row.split()[3]) == pytest.approx(mean, abs=6e-4)
    assert "published: DreamBooth            0.668   0.803   0.305" in said
    assert {path.name for path in (folder / "classes").iterdir()} == {"ball", "dog"}


def test_clip_i_is_the_mean_cosine_of_drawn_and_own_pictures(made, data, clip):
    """Computed anew, picture by picture, from the files."""
    from dreambooth.data import picture_files

    folder, _ = made
    instrument = Clip(str(clip))

    def vectors(paths):
        return np.stack([instrument.encode_pictures([picture_files.open_picture(path)])[0] for path in sorted(paths)])

    drawn, own = vectors((folder / "dog/pictures").iterdir()), vectors((data / "dog").iterdir())
    found = json.loads((folder / "dog/figures.json").read_text())
    assert found["fine-tuned"]["CLIP-I"] == pytest.approx(float((drawn @ own.T).mean()), abs=1e-5)
    alike = own @ own.T
    others = (alike.sum() - len(own)) / (len(own) * (len(own) - 1))
    assert found["real pictures"]["CLIP-I"] == pytest.approx(float(others), abs=1e-5)
    texts = instrument.encode_prompts(["a dog in snow", "a wet dog"])  # without the identifier
    prompts = np.repeat(texts, 2, axis=0)
    assert found["fine-tuned"]["CLIP-T"] == pytest.approx(float((drawn * prompts).sum(1).mean()), abs=1e-5)


def copied(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "bench")
    for path in (tmp_path / "bench").rglob("figures.json"):
        path.unlink()
    return tmp_path / "bench"


def test_it_goes_on_where_it_was_stopped(made, line, tmp_path, monkeypatch, capsys):
    folder = copied(made, tmp_path)
    shutil.copytree(made[0] / "ball", folder / "ball", dirs_exist_ok=True)  # with its figures
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    trained = []
    monkeypatch.setattr(bench, "_train", lambda settings, subject: trained.append(subject.name))
    bench.main(line())
    assert trained == []  # all of dog's pictures are there
    again, before = (json.loads((place / "figures.json").read_text()) for place in (folder, made[0]))
    assert again == before
    assert "subject   2 of 2: dog" in (said := capsys.readouterr().out) and "subject   1 of 2" not in said


def test_a_picture_that_is_missing_is_drawn_as_before(made, line, tmp_path):
    folder = copied(made, tmp_path)
    before = (folder / "dog/pictures/1-1.png").read_bytes()
    (folder / "dog/pictures/1-1.png").unlink()
    bench.main(line(keep_models=True))
    assert (folder / "dog/pictures/1-1.png").read_bytes() == before
    assert (folder / "dog/model/training_args.json").exists() and not (folder / "ball/model").exists()


@pytest.mark.parametrize("text", ['{"fine', "{}", "[]", '{"fine-tuned": {}, "real pictures": {}}'])
def test_damaged_figures_are_measured_anew(made, line, tmp_path, monkeypatch, text):
    folder = copied(made, tmp_path)
    (folder / "dog/figures.json").write_text(text)
    monkeypatch.setattr(bench, "_train", lambda *_: pytest.fail("trained again"))
    bench.main(line())
    before = json.loads((made[0] / "dog/figures.json").read_text())
    assert json.loads((folder / "dog/figures.json").read_text()) == before


def test_a_damaged_picture_is_drawn_anew(made, line, tmp_path):
    folder = copied(made, tmp_path)
    before = (folder / "dog/pictures/0-0.png").read_bytes()
    (folder / "dog/pictures/0-0.png").write_bytes(before[:100])
    bench.main(line(subjects="dog"))
    assert (folder / "dog/pictures/0-0.png").read_bytes() == before


def test_a_run_that_still_writes_is_waited_for(tmp_path, capsys):
    code = "import fcntl, os, sys, time; d = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(d, 2); print(flush=True)"
    command = [sys.executable, "-c", f"{code}; time.sleep(4)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        begin = time.monotonic()
        bench._wait_for(tmp_path)
    assert time.monotonic() - begin > 3
    assert capsys.readouterr().out.count("waiting ") == 1


def test_what_the_benchmark_gives_itself_is_said(line, tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(json.dumps({"seed": 7, "output_dir": "elsewhere", "lora_rank": 2}))
    bench.read_settings(line())
    assert "the benchmark gives its own output_dir, seed" in capsys.readouterr().err


def test_another_list_of_prompts_is_another_benchmark(made, line, data, tmp_path):
    copied(made, tmp_path)
    other = shutil.copytree(data, tmp_path / "data")
    (other / dreambench.LIST).write_text(LIST.replace("on grass", "on sand"))
    with pytest.raises(BadInput, match="it holds a benchmark with another --data"):
        bench.main(line(data=other))


def test_some_subjects_and_prompts_and_no_dino(line, tmp_path, capsys):
    bench.main(line(subjects="dog", num_prompts=1, num_images=1, dino_model_path=None, identifier="zwx"))
    pictures = list((tmp_path / "bench/dog/pictures").iterdir())
    assert [path.name for path in pictures] == ["0-0.png"]
    report = json.loads((tmp_path / "bench/figures.json").read_text())
    assert report["subjects"]["dog"]["DINO"] is None and list(report["subjects"]) == ["dog"]
    assert "Means over 1 subject." in capsys.readouterr().out


def test_the_trainings_settings_are_those_of_the_file(line, tmp_path):
    settings, subjects = bench.read_settings(line())
    for recipe, expected in (
        ({}, set()),
        ({"prior_by_prediction": True}, {"--class_prompt"}),
        ({"with_prior_preservation": True}, {"--class_prompt", "--class_data_dir"}),
    ):
        (tmp_path / "recipe.json").write_text(json.dumps(recipe))
        flags = bench.training_flags(settings, subjects[1])
        assert {each for each in flags if each.startswith("--class")} == expected
        assert flags[flags.index("--instance_prompt") + 1] == "a photo of sks dog"


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(subjects="dog cat"), "--subjects cat: not in the set, which has ball, dog"),
        (dict(data="/nowhere"), "--data /nowhere: there is no prompts_and_classes.txt"),
        (dict(preset="sd15"), "--preset can't be combined with --config"),
        (dict(model="/nowhere"), "--model /nowhere"),
        (dict(identifier=" "), "--identifier"),
        (dict(num_images=0), "--num_images 0: must be at least 1"),
        (dict(clip_model_path="/nowhere"), "--clip_model_path /nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(line, tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        bench.main(line(**changes))
    assert not (tmp_path / "bench").exists()


def test_a_model_that_enlarges_is_refused(line, upscaler_twin, tmp_path):
    with pytest.raises(BadInput, match="--model .*: it is a model of StableDiffusionUpscalePipeline, which enlarges"):
        bench.main(line(model=upscaler_twin))
    assert not (tmp_path / "bench").exists()


def test_a_model_of_the_hub_that_enlarges_is_refused_before_the_first_run(line, upscaler_twin, tmp_path, monkeypatch):
    """Only when it has been fetched is it known."""
    from dreambooth.models import hub

    monkeypatch.setattr(hub, "find_model", lambda name, *_: str(upscaler_twin) if name == "me/up" else name)
    monkeypatch.setattr(bench, "_train", lambda *_: pytest.fail("it trains"))
    with pytest.raises(
        BadInput, match="--model me/up: it is a model of StableDiffusionUpscalePipeline, which enlarges"
    ):
        bench.main(line(model="me/up"))


def test_a_bad_recipe_is_refused_before_the_first_run(line, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"learning_rat": 1}))
    with pytest.raises(BadInput, match="learning_rat"):
        bench.main(line())
    assert not (tmp_path / "bench").exists()


@pytest.mark.parametrize("changes, named", [(dict(seed=1), "--seed"), (dict(num_images=1), "--num_images")])
def test_a_folder_of_another_benchmark_is_refused(made, line, tmp_path, changes, named):
    folder = copied(made, tmp_path)
    with pytest.raises(BadInput, match=f"it holds a benchmark with another {named}; give a new folder"):
        bench.main(line(**changes))
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**RECIPE, "lora_rank": 3}))
    with pytest.raises(BadInput, match="it holds a benchmark with another --config"):
        bench.main(line())
    (folder / "bench.json").write_text("[")
    with pytest.raises(BadInput, match="its bench.json can't be read"):
        bench.main(line())


def test_a_training_that_fails_ends_it(line, monkeypatch):
    monkeypatch.setattr(bench, "training_flags", lambda *_: ["--no_such_flag"])
    with pytest.raises(Stopped, match="the training of ball ended with code 2"):
        bench.main(line())


def test_a_signal_lets_the_training_write_its_checkpoint(line, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE, "max_train_steps": 100_000}))
    command = [sys.executable, "-m", "dreambooth.bench", *line(subjects="dog")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    model, end = tmp_path / "bench/dog/model", time.time() + 120
    while not list(model.glob("logs/*")) and time.time() < end:
        time.sleep(0.2)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "stopped by a signal; the same command goes on" in errors
    assert list(model.glob("checkpoint-*/state.json"))
