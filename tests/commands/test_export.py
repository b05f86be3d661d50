"""python -m dreambooth.export: every format from every format, and what can't be."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.commands import python
from support.families import load_family, load_pipeline
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


@pytest.mark.parametrize("model, what", [("bert_twin", "BertModel"), ("unidiffuser_twin", "UniDiffuserPipeline")])
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


@pytest.fixture(scope="module", params=["twin", "velocity_twin", "xl_twin", "inpainting_twin", "sd3_twin"])
def other(request, tmp_path_factory):
    """(a twin, another of the same architecture, the second as one file)."""
    folder = tmp_path_factory.mktemp("other")
    twin = request.getfixturevalue(request.param)
    family = load_family(twin)
    zero = tuple(family.untrained_layers().get("transformer", ())[1:])  # of Stable Diffusion 3, which torch has not
    for network in family.networks().values():
        for name, weight in network.state_dict().items():
            if "float" in str(weight.dtype) and not (zero and name.startswith(zero)):
                weight.set_value(weight + 0.25)
    family.save(folder / "model", "safetensors")
    run(folder / "model", "single_file", folder / "one.safetensors")
    return twin, folder / "model", folder / "one.safetensors"


def parts_of(folder):
    return [path.parent.name for path in folder.glob("*/*.safetensors")]


@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_one_file_becomes_a_folder_with_a_model_like_it(other, form, tmp_path):
    twin, model, one = other
    run(one, form, tmp_path / "folder", "--like", str(twin))
    run(tmp_path / "folder", "safetensors", tmp_path / "back")
    for part in parts_of(model):
        mine, theirs = weights(tmp_path / "back" / part), weights(model / part)
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine), part


def test_one_file_may_be_half_and_hold_more(other, tmp_path):
    twin, model, one = other
    held = {name: each.astype(np.float16) for name, each in load_file(one).items()}
    held |= {"model_ema.decay": np.ones(1, np.float32), "alphas_cumprod": np.ones(1000, np.float32)}
    save_file(held, tmp_path / "half.safetensors")
    run(tmp_path / "half.safetensors", "safetensors", tmp_path / "folder", "--like", str(twin))
    for part in parts_of(model):
        for name, each in weights(model / part).items():
            assert np.array_equal(weights(tmp_path / "folder" / part)[name], each.astype(np.float16).astype(np.float32))


def test_one_file_of_another_model_is_refused(twin, velocity_twin, xl_twin, tmp_path):
    run(twin, "single_file", tmp_path / "one.safetensors")
    run(xl_twin, "single_file", tmp_path / "xl.safetensors")
    for file, like, fault in (
        ("one", xl_twin, "it is of another model; it has no model.diffusion_model."),
        ("xl", twin, "it is of another model; "),
        ("one", velocity_twin, "it is of another model; "),
    ):
        with pytest.raises(BadInput, match=fault) as caught:
            run(tmp_path / f"{file}.safetensors", "safetensors", tmp_path / "out", "--like", str(like))
        assert str(caught.value).startswith(f"--model_path {tmp_path / file}.safetensors, --like {like}: ")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["unidiffuser_twin", "upscaler_twin", "pixels_twin", "pixels_upscaler_twin"])
def test_one_file_of_a_family_that_web_uis_have_not_is_refused(name, twin, request, tmp_path):
    run(twin, "single_file", tmp_path / "one.safetensors")
    with pytest.raises(BadInput, match="--format single_file: the layout has no place for"):
        run(tmp_path / "one.safetensors", "safetensors", tmp_path / "out", "--like", str(request.getfixturevalue(name)))
    assert not (tmp_path / "out").exists()


def test_what_is_not_one_file_is_refused_with_like(twin, bert_twin, tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"12345678{")
    run(twin, "single_file", tmp_path / "one.safetensors")
    for model, like, form, fault in (
        (twin, twin, "safetensors", "with --like it is one file of a web UI, and there is no such file"),
        (tmp_path / "none.safetensors", twin, "safetensors", "there is no such file"),
        (
            tmp_path / "damaged.safetensors",
            twin,
            "safetensors",
            "damaged.safetensors: it can't be read .no safetens",
        ),
        (tmp_path / "one.safetensors", tmp_path / "none", "safetensors", "--like .*none: there is no such folder"),
        (tmp_path / "one.safetensors", bert_twin, "safetensors", "the layout has no place for BertModel"),
    ):
        with pytest.raises(BadInput, match=fault):
            run(model, form, tmp_path / "out", "--like", str(like))
    with pytest.raises(BadInput, match="--format single_file: .*one.safetensors is one file already"):
        run(tmp_path / "one.safetensors", "single_file", tmp_path / "two.safetensors", "--like", str(twin))
    assert not (tmp_path / "out").exists() and not (tmp_path / "two.safetensors").exists()


def test_one_file_without_like_says_what_to_do(twin, tmp_path):
    run(twin, "single_file", tmp_path / "one.safetensors")
    with pytest.raises(BadInput, match="a single file, as web UIs have, .* --format safetensors --like MODEL"):
        run(tmp_path / "one.safetensors", "safetensors", tmp_path / "out")
