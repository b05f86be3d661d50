"""python -m dreambooth.export: every format from every format, and what can't be."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import python
from support.families import load_pipeline
from support.weights import weights

from dreambooth import export
from dreambooth.models import saving
from dreambooth.system.errors import BadInput


def run(model, form, output, *more):
    export.main(["--model_path", str(model), "--format", form, "--output", str(output), *more])


@pytest.mark.parametrize("form", ["pdparams", "safetensors", "diffusers"])
def test_a_folder_in_any_format_from_any_other(form, twin, tmp_path, capsys):
    run(twin, form, tmp_path / "there")
    assert capsys.readouterr().out.strip() == str(tmp_path / "there")
    run(tmp_path / "there", "safetensors", tmp_path / "back")
    for part in ("unet", "vae", "text_encoder"):
        before, after = weights(twin / part), weights(tmp_path / "back" / part)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_command_writes_one_file(twin, tmp_path):
    done = python(
        "-m", "dreambooth.export", "--model_path", twin, "--format", "single_file",
        "--output", tmp_path / "new" / "one.safetensors",
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(tmp_path / "new/one.safetensors"), "")
    prefixes = {name.split(".")[0] for name in load_file(tmp_path / "new/one.safetensors")}
    assert prefixes == {"model", "first_stage_model", "cond_stage_model"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one.safetensors"]


def test_openclip_is_known_by_its_activation(velocity_twin, tmp_path):
    run(velocity_twin, "single_file", tmp_path / "two.safetensors")
    assert "cond_stage_model.model.ln_final.weight" in load_file(tmp_path / "two.safetensors")


def test_half_the_size(twin, tmp_path):
    run(twin, "single_file", tmp_path / "whole.safetensors")
    run(twin, "single_file", tmp_path / "half.safetensors", "--half")
    assert {value.dtype for value in load_file(tmp_path / "half.safetensors").values()} == {np.dtype("float16")}
    whole, half = (load_file(tmp_path / name) for name in ("whole.safetensors", "half.safetensors"))
    assert all(np.array_equal(half[name], value.astype(np.float16)) for name, value in whole.items())
    sizes = [(tmp_path / name).stat().st_size for name in ("whole.safetensors", "half.safetensors")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("model, what", [("bert_twin", "a BertModel"), ("unidiffuser_twin", "a UniDiffuserPipeline")])
def test_what_the_one_file_has_no_place_for_is_refused(model, what, tmp_path, request):
    with pytest.raises(BadInput, match=f"no place for {what}"):
        run(request.getfixturevalue(model), "single_file", tmp_path / "one.safetensors")


def test_what_is_there_is_not_overwritten(twin, tmp_path):
    with pytest.raises(BadInput, match="--output .*: it is there already"):
        run(twin, "diffusers", tmp_path)


@pytest.mark.parametrize("form, name", [("single_file", "folder"), ("diffusers", "file.safetensors")])
def test_a_name_that_does_not_fit_the_format_is_refused(form, name, twin, tmp_path):
    with pytest.raises(BadInput, match="--output"):
        run(twin, form, tmp_path / name)


def test_what_fails_leaves_nothing_behind(twin, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(saving, "save", fail)
    with pytest.raises(OSError, match="full"):
        run(twin, "diffusers", tmp_path / "there")
    assert not (tmp_path / "there").exists()
    assert load_pipeline(twin)
