"""Files of strangers: whatever a model, a LoRA or a CLIP asks for, no command runs it, and each ends in one line."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.clips import build_clip
from support.crafted_pickles import system, torch_file, torch_weights
from support.families import load_family, load_pipeline

import infer
import train_dreambooth
from dreambooth import export, identifier, metrics
from dreambooth.files import records, weight_files
from dreambooth.models import loading, pipeline_folder
from dreambooth.system import console
from dreambooth.system.errors import BadInput

SAVED = {".pdparams": "pdparams", ".bin": "diffusers"}
PARTS = ("unet", "text_encoder", "vae")


@pytest.fixture(scope="module")
def models(twin, tmp_path_factory):
    """The twin in the formats whose files may be pickles."""
    folder = tmp_path_factory.mktemp("models")
    family = load_family(twin)
    for suffix, save_format in SAVED.items():
        family.save(folder / suffix, save_format)
    return folder


@pytest.fixture(scope="module")
def lora(twin, tmp_path_factory):
    """The folder of a LoRA as train_dreambooth.py leaves it, but for the LoRA."""
    folder = tmp_path_factory.mktemp("lora") / "lora"
    folder.mkdir()
    record = {"base_model": str(twin), "flags": {"revision": None, "tokenizer_name": None}}
    (folder / "training_args.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def write_attack(path, marker):
    """Write weights in which a call stands beside the genuine ones."""
    if path.suffix == ".bin":
        torch_file(path, system(marker, 2))
    else:
        path.write_bytes(system(marker, beside={"conv_in.bias": np.zeros(4, np.float32)}))


def strange_model(models, suffix, part, marker, folder):
    """A copy of a model in which a part's weights are an attack."""
    shutil.copytree(models / suffix, folder)
    [weights] = [path for path in (folder / part).iterdir() if path.suffix in (".safetensors", ".pdparams")]
    weights.unlink()
    names = {
        ".pdparams": "model_state",
        ".bin": "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model",
    }
    write_attack(folder / part / f"{names[suffix]}{suffix}", marker)
    return folder


def strange_lora(lora, suffix, marker, folder):
    shutil.copytree(lora, folder)
    name = {".pdparams": "paddle_lora_weights", ".bin": "pytorch_lora_weights"}[suffix]
    write_attack(folder / f"{name}{suffix}", marker)
    return folder


def commands(model, lora, clip, pictures, folder):
    """Each command, given a model and a LoRA of which one is a stranger's: its main and its arguments."""
    measured = ["--subject_data_dir", pictures, "--prompt", "a photo of a sks dog", "--clip_model_path", clip]
    yield (
        train_dreambooth.main,
        [
            *("--pretrained_model_name_or_path", model, "--instance_data_dir", pictures),
            *("--instance_prompt", "a photo of a sks dog", "--output_dir", folder / "out", "--resolution", 32),
        ],
    )
    yield infer.main, ["--model_path", model, *(("--lora", lora) if lora else ()), "--prompt", "a dog"]
    yield metrics.main, ["--model_path", lora or model, "--base_model_path", model, *measured]
    yield export.main, ["--model_path", lora or model, "--format", "safetensors", "--output", folder / "exported"]
    yield identifier.main, ["--model", model]


def run(main, arguments, capsys):
    """Run a command in this process; returns its exit code and what it printed as errors."""
    with pytest.raises(SystemExit) as caught:
        console.run_command(main, [str(each) for each in arguments])
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("suffix", SAVED)
@pytest.mark.parametrize("part", PARTS)
def test_no_command_runs_a_models_file(part, suffix, models, clip, pictures, marker, tmp_path, capsys):
    model = strange_model(models, suffix, part, marker, tmp_path / "model")
    for main, arguments in commands(model, None, clip, pictures, tmp_path):
        code, errors = run(main, arguments, capsys)
        assert code == 2 and len(errors.splitlines()) == 1, errors
        assert errors.startswith("error: --") and f"{model}/{part}/" in errors
        assert f"{suffix}: it refers to posix.system, " in errors and "; use a safetensors file instead" in errors
        assert not marker.exists()
    assert not (tmp_path / "out").exists() and not (tmp_path / "exported").exists()


@pytest.mark.parametrize("suffix", SAVED)
def test_no_command_runs_a_lora(suffix, twin, lora, clip, pictures, marker, tmp_path, capsys):
    strange = strange_lora(lora, suffix, marker, tmp_path / "lora")
    for main, arguments in list(commands(twin, strange, clip, pictures, tmp_path))[1:4]:
        code, errors = run(main, arguments, capsys)
        assert code == 2 and len(errors.splitlines()) == 1, errors
        assert f"{strange}/" in errors and f"{suffix}: it can't be read (it refers to posix.system, " in errors
        assert not marker.exists()
    # and where it stands in the place of a model, as the file alone, and for a LoRA's own formats
    for main, arguments in [
        *list(commands(strange, None, clip, pictures, tmp_path)),
        (infer.main, ["--model_path", twin, "--lora", next(strange.glob("*_lora_*")), "--prompt", "a dog"]),
        *(
            (export.main, ["--model_path", strange, "--format", form, "--output", tmp_path / "a.safetensors"])
            for form in ("lora_paddle", "lora_diffusers", "lora_web_ui")
        ),
    ]:
        code, errors = run(main, arguments, capsys)
        assert code == 2 and len(errors.splitlines()) == 1 and not marker.exists(), errors


@pytest.mark.parametrize("suffix", SAVED)
def test_metrics_does_not_run_a_clip(suffix, twin, clip, pictures, marker, tmp_path, capsys):
    strange = shutil.copytree(clip, tmp_path / "strange clip")
    for path in [*strange.glob("*.safetensors"), *strange.glob("*.pdparams")]:
        path.unlink()
    write_attack(strange / f"{'model_state' if suffix == '.pdparams' else 'pytorch_model'}{suffix}", marker)
    main, arguments = list(commands(twin, None, strange, pictures, tmp_path))[2]
    code, errors = run(main, arguments, capsys)
    assert code == 2 and len(errors.splitlines()) == 1 and "it refers to posix.system" in errors
    assert "--clip_model_path" in errors and not marker.exists()


@pytest.mark.parametrize("suffix", SAVED)
@pytest.mark.parametrize("part", PARTS)
def test_the_libraries_do_not_run_a_file_that_was_not_checked(part, suffix, models, marker, tmp_path, monkeypatch):
    """As where a file changes after the check."""
    model = strange_model(models, suffix, part, marker, tmp_path / "model")
    monkeypatch.setattr(weight_files, "check", lambda path: None)
    with pytest.raises(BadInput, match=r"it can't be loaded \(.*it refers to posix.system"):
        load_pipeline(model)
    assert not marker.exists()


# what a folder may hold beside its weights


def test_a_planted_file_of_paddle_is_not_taken_in_the_stead_of_torchs(models, twin, marker, tmp_path):
    """Not even where there is one for each network, and torch's are pickles too."""
    model = shutil.copytree(models / ".bin", tmp_path / "model")
    for part in PARTS:
        write_attack(model / part / "model_state.pdparams", marker)
    expected = load_pipeline(twin).unet.conv_in.weight.numpy()
    assert np.array_equal(load_pipeline(model).unet.conv_in.weight.numpy(), expected)
    [weights] = (model / "vae").glob("*.safetensors")
    torch_weights(model / "vae/diffusion_pytorch_model.bin", load_file(weights))
    weights.unlink()
    assert np.array_equal(load_pipeline(model).unet.conv_in.weight.numpy(), expected)
    assert not marker.exists()


def test_python_files_in_a_folder_are_not_run(models, marker, tmp_path):
    """The library looks for a pipeline of one's own in `None.py`."""
    model = shutil.copytree(models / ".pdparams", tmp_path / "model")
    for name in ("None.py", "pipeline.py", "StableDiffusionPipeline.py", "unet/unet.py", "__init__.py"):
        (model / name).write_text(f"open({str(marker)!r}, 'w')\n")
    assert load_pipeline(model) and loading.load_tokenizers(loading.Source(str(model)))
    assert not marker.exists()


def test_the_library_alone_runs_them(models, marker, tmp_path):
    from ppdiffusers import StableDiffusionPipeline

    model = shutil.copytree(models / ".pdparams", tmp_path / "model")
    (model / "None.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(AttributeError):  # there is no pipeline in that file
        StableDiffusionPipeline.from_pretrained(str(model), safety_checker=None)
    assert marker.exists()


INDEX = [
    ({"unet": ["os", "system"]}, "names os.system as unet, which"),
    ({"scheduler": ["builtins", "eval"]}, "names builtins.eval as scheduler"),
    ({"safety_checker": ["os", "system"]}, "names os.system as safety_checker"),
    ({"feature_extractor": ["subprocess", "Popen"]}, "names subprocess.Popen as feature_extractor"),
    ({"another": ["a_module_in_the_folder", "Network"]}, "names a_module_in_the_folder.Network as another"),
    ({"one\nerror: two": ["os", "system"]}, r"names os.system as one\\nerror: two"),
    ({"tokenizer": ["paddlenlp.transformers", "ErnieTinyTokenizer"]}, "ErnieTinyTokenizer as tokenizer"),
    ({"unet": ["ppdiffusers.utils.load_utils", "UNet2DConditionModel"]}, "names ppdiffusers.utils.load_utils"),
    ({"unet": ["ppdiffusers", "DiffusionPipeline"]}, "names ppdiffusers.DiffusionPipeline"),
    ({"unet": ["ppdiffusers", "AutoencoderKL"]}, "its unet is a AutoencoderKL; supported: UNet2DConditionModel"),
    ({"unet": ["ppdiffusers", None]}, "can't be read .the entry of unet"),
    ({"unet": [["os"], {}]}, "can't be read .the entry of unet"),
    ({"unet": ["os"]}, "can't be read .the entry of unet"),
    ({"unet": "os.system"}, "can't be read .the entry of unet"),
    # the library unpacks whatever it finds, a text of two letters too
    *(({"feature_extractor": value}, "can't be read .the entry of feature_extractor") for value in ("os", 5, True, {})),
    ({"unet": None}, "names no unet"),
    ({"unet": [None, None]}, "names no unet"),
    ({"_class_name": ["pipeline", "MyPipeline"]}, "it is a .*MyPipeline.*; supported: StableDiffusionPipeline"),
    ({"_class_name": {}}, "it is a {}; supported"),
    ({"_class_name": "os.system"}, "it is a os.system; supported"),
]


@pytest.mark.parametrize("change, named", INDEX, ids=lambda each: str(each)[:40])
def test_a_model_index_that_asks_for_more_is_refused(change, named, models, tmp_path, capsys):
    model = shutil.copytree(models / ".pdparams", tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, **change}))
    code, errors = run(identifier.main, ["--model", model], capsys)
    assert code == 2 and len(errors.splitlines()) == 1
    with pytest.raises(BadInput, match=f"--model {model}: .*{named}"):
        pipeline_folder.check(str(model), "--model")


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '"StableDiffusionPipeline"', "[" * 100_000])
def test_a_model_index_that_is_no_json_object_is_refused(text, models, tmp_path):
    model = shutil.copytree(models / ".pdparams", tmp_path / "model")
    (model / "model_index.json").write_text(text)
    with pytest.raises(BadInput, match="its model_index.json can't be read"):
        pipeline_folder.check(str(model), "--model")


# damaged safetensors


@pytest.mark.parametrize("part", PARTS)
def test_every_command_names_a_damaged_safetensors_file(part, models, clip, pictures, tmp_path, capsys):
    model = shutil.copytree(models / ".bin", tmp_path / "model")  # in diffusers' format
    [weights] = (model / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    for main, arguments in commands(model, None, clip, pictures, tmp_path):
        code, errors = run(main, arguments, capsys)
        assert code == 2 and len(errors.splitlines()) == 1 and f"{weights}: cut short: 100 bytes" in errors, errors


def test_a_checkpoint_is_read_from_its_safetensors_alone(flags, marker, tmp_path, capsys):
    line = flags(lora_rank=2, max_train_steps=2, save_steps=1)
    train_dreambooth.main(line)
    folder = tmp_path / "out/checkpoint-1"
    for name in ("model_state.pdparams", "paddle_lora_weights.pdparams", "pytorch_lora_weights.bin", "optimizer.pdopt"):
        write_attack(folder / name, marker)
        write_attack(folder / "unet" / name, marker)
    line += ["--resume_from_checkpoint", "checkpoint-1"]
    train_dreambooth.main(line)
    assert not marker.exists()
    state = folder / "state.json"
    state.write_text(json.dumps({**records.read_state(folder), "checksums": {}}))  # as a stranger can write it
    capsys.readouterr()
    for path in (folder / "unet/model.safetensors", folder / "optimizer.safetensors"):
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b'"F32"', b'"F99"', 1))  # of the same size
        code, errors = run(train_dreambooth.main, line, capsys)
        [error] = [each for each in errors.splitlines() if each.startswith("error: ")]
        assert code == 2 and "Traceback" not in errors
        assert f"{path}: " in error and "is of kind F99, which is not known here" in error
        path.write_bytes(whole)
