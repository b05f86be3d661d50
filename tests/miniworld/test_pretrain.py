"""The command that trains the small Stable Diffusion: its stages, in order and each once."""

import shutil
import subprocess

import numpy as np
import pytest
from support.commands import ROOT
from support.families import load_pipeline
from support.pretraining import run_pretraining
from support.weights import weights

from dreambooth.system.errors import BadInput
from miniworld import dataset, pretrain, stages, tokenizer, training, world
from miniworld.detector import Detector


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a whole run."""
    return run_pretraining(tmp_path_factory.mktemp("pretrain"))


def test_a_run_leaves_no_temporary_files(made):
    names = {path.name for path in made.rglob("*")}
    assert not [name for name in names if name.startswith(".") or "unfinished" in name or "latents-" in name]


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_trains_nothing_again(made, monkeypatch):
    def again(*arguments):
        raise AssertionError("a second time")

    before = snapshot(made / "work")
    for owner, name in (
        (training.Training, "run"),
        (stages, "encode_latents"),
        (world, "picture"),
        (tokenizer, "make"),
    ):
        monkeypatch.setattr(owner, name, again)
    run_pretraining(made)
    assert snapshot(made / "work") == before
    load_pipeline(made / "packed/model")


def test_only_the_stage_whose_result_is_missing_runs_again(made, tmp_path):
    shutil.copytree(made / "work", tmp_path / "work")
    (tmp_path / "work/latents.npy").unlink()
    before = snapshot(tmp_path / "work")
    run_pretraining(tmp_path, "--stages", "vae", "latents")
    after = snapshot(tmp_path / "work")
    assert after.keys() - before.keys() == {tmp_path / "work/latents.npy"}
    assert all(after[path] == before[path] for path in before)
    assert np.array_equal(np.load(tmp_path / "work/latents.npy"), np.load(made / "work/latents.npy"))
    assert not (tmp_path / "packed").exists()


def test_the_captions_of_the_unet_are_encoded_as_by_the_pipeline(made):
    captions = ["a photo of a dog", "", "an orange cat at night"]
    together = dataset.caption_encoder(made / "work")(captions).numpy()
    pipeline = load_pipeline(made / "packed/model")
    expected = np.concatenate([pipeline.encode_prompt(caption, 1, False)[0].numpy() for caption in captions])
    np.testing.assert_allclose(together, expected, atol=0.02)  # the pipeline's weights are rounded to half precision


def test_the_unet_of_a_packed_model_trains_further_alone(made, tmp_path):
    """In two updates of a rate that is still warming up, it does not get far."""
    run_pretraining(tmp_path, "--go_on_from", str(made / "packed"), "--stages", "pictures", "latents", "unet", "pack")
    assert [each.name for each in (tmp_path / "work").glob("*-state")] == ["unet-state"]
    for part in ("vae", "clip"):
        packed = weights(made / "packed" / {"vae": "model/vae"}.get(part, part))
        assert all(
            np.array_equal(each.ravel(), packed[name].ravel())
            for name, each in weights(tmp_path / "work" / part).items()
        )
    before, after = weights(made / "packed/model/unet"), weights(tmp_path / "packed/model/unet")
    furthest = max(float(np.abs(after[name].astype(np.float32) - before[name]).max()) for name in before)
    assert 0 < furthest < 1e-3
    Detector.load(tmp_path / "packed/detector.safetensors")


@pytest.mark.parametrize(
    "stages, stage, missing, needed",
    [
        (["vae"], "vae", "pictures.npy", "pictures"),
        (["clip", "pictures"], "clip", "tokenizer", "tokenizer"),
        (["pictures", "tokenizer", "latents"], "latents", "vae", "vae"),
        (["unet", "tokenizer", "pictures", "clip"], "unet", "latents.npy", "latents"),
        (["pack", "pictures", "tokenizer", "vae", "clip"], "pack", "detector.safetensors", "detector"),
    ],
)
def test_a_stage_without_its_input_is_an_error_before_any_work(tmp_path, stages, stage, missing, needed):
    work = tmp_path / "work"
    with pytest.raises(BadInput, match=f"^--stages {stage}: {work} has no {missing}; add the stage {needed}$"):
        pretrain.main(["--work", str(work), "--processes", "1", "--stages", *stages])
    assert not work.exists()


def test_a_packed_model_gives_nothing_to_a_folder_that_has_begun(made, tmp_path):
    shutil.copytree(made / "work/tokenizer", tmp_path / "work/tokenizer")
    line = ["--work", str(tmp_path / "work"), "--processes", "1", "--go_on_from", str(made / "packed")]
    with pytest.raises(BadInput, match="has no vae; add the stage vae"):
        pretrain.main([*line, "--stages", "large-pictures", "upscaler"])
    assert [each.name for each in (tmp_path / "work").iterdir()] == ["tokenizer"]


@pytest.mark.parametrize("flag, rest", [("--go_on_from", ["upscaler"]), ("--output", ["upscaler", "pack-upscaler"])])
def test_a_folder_that_will_not_do_is_refused_before_any_work(made, tmp_path, flag, rest):
    (tmp_path / "file").write_text("")
    line = ["--work", str(tmp_path / "work"), "--processes", "1", "--go_on_from", str(made / "packed")]
    with pytest.raises(BadInput, match=flag):
        pretrain.main([*line, flag, str(tmp_path / "file/folder"), "--stages", "large-pictures", *rest])
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("stage", pretrain.STAGES)
def test_a_stage_needs_only_its_inputs(made, tmp_path, stage):
    needed = [pretrain._STAGES[name].result for name in pretrain._STAGES[stage].inputs]
    (tmp_path / "work").mkdir()
    for name in [*needed, *(["unet"] if stage == "pack" else [])]:
        copy = shutil.copytree if (made / "work" / name).is_dir() else shutil.copy
        copy(made / "work" / name, tmp_path / "work" / name)
    run_pretraining(tmp_path, "--stages", stage)
    result = pretrain._STAGES[stage].result
    packed = "upscaler" if stage == "pack-upscaler" else "model"
    assert (tmp_path / "work" / result).exists() if result else (tmp_path / "packed" / packed).is_dir()


def test_several_processes_run_the_same_command_under_the_launcher(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda line, env: (calls.append((line, env)), 3)[1])
    line = ["--work", str(tmp_path / "work"), "--stages", "tokenizer", "--processes", "4"]
    with pytest.raises(SystemExit) as end:
        pretrain.main(line)
    [(called, environment)] = calls
    assert end.value.code == 3 and called[1:3] == ["-m", "paddle.distributed.launch"]
    assert called[called.index("--nproc_per_node") + 1] == "4"
    assert called[-len(line) - 1 :] == [str(ROOT / "miniworld/pretrain.py"), *line]
    assert environment["PYTHONPATH"].split(":")[0] == str(ROOT)
