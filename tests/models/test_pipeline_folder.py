"""The checks of a pipeline's folder, and its fingerprint; for damaged weights see test_strangers.py."""

import json
import shlex
import shutil

import pytest
from support.twins import BUILDERS

from dreambooth.models import pipeline_folder
from dreambooth.system.errors import BadInput


@pytest.fixture
def folder(twin, tmp_path):
    return shutil.copytree(twin, tmp_path / "copy")


def edit_index(folder, **changes):
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def complaint(folder):
    with pytest.raises(BadInput) as caught:
        pipeline_folder.check(str(folder), "--model_path")
    text = str(caught.value)
    assert text.startswith(f"--model_path {folder}: ")
    return text.removeprefix(f"--model_path {folder}: ")


def test_a_whole_pipeline_passes_and_a_name_on_the_hub_too(twin, unidiffuser_twin):
    for name in (str(twin), str(unidiffuser_twin), "CompVis/stable-diffusion-v1-4"):
        pipeline_folder.check(name)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere", "some/where/else", "nowhere/"])
def test_a_path_that_is_not_there_is_no_name_on_the_hub(name):
    with pytest.raises(BadInput, match="there is no such folder"):
        pipeline_folder.check(name)


@pytest.mark.parametrize("name", ["a.safetensors", "b.ckpt"])
def test_a_single_file_is_named_with_the_command_that_makes_a_folder_of_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"weights")
    with pytest.raises(BadInput) as caught:
        pipeline_folder.check_model(str(path), "--model_path")
    text = str(caught.value)
    assert text.startswith(f"--model_path {path}: a single file, as web UIs have, and this tool reads folders")
    line = f"python -m dreambooth.export --model_path {path} --output {tmp_path / path.stem} --format safetensors"
    assert f"{line} --like MODEL" in text


@pytest.mark.parametrize("name", ["it's $HOME.safetensors", 'a "b".ckpt', "plain.ckpt"])
def test_the_printed_command_survives_the_shell(tmp_path, name):
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(BadInput) as caught:
        pipeline_folder.check_model(str(tmp_path / name), "--model_path")
    line = shlex.split(str(caught.value).partition("the same kind: ")[2].partition(" (a file")[0])
    assert line[line.index("--model_path") + 1] == str(tmp_path / name)
    assert line[line.index("--output") + 1] == str((tmp_path / name).with_suffix(""))


@pytest.mark.parametrize("name", ["sks_dog.safetensors", "a.ckpt"])
def test_a_missing_file_of_weights_is_no_name_on_the_hub(name):
    with pytest.raises(BadInput, match=f"--model_path {name}: there is no such file"):
        pipeline_folder.check_model(name, "--model_path")


def test_what_is_missing_is_named(folder):
    (folder / "tokenizer/vocab.json").unlink()
    pipeline_folder.check(str(folder))  # the library says which vocabulary it needs
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    assert complaint(folder) == "its folder tokenizer/ is empty"
    (folder / "unet/config.json").rename(folder / "config.json")
    (folder / "tokenizer/vocab.json").write_text("{}")
    assert complaint(folder) == "unet/config.json is missing"
    (folder / "config.json").rename(folder / "unet/config.json")
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    assert "its folder unet/ has no weights" in complaint(folder)
    shutil.rmtree(folder / "unet")
    assert complaint(folder) == "it has no folder unet/"
    (folder / "model_index.json").unlink()
    assert (
        complaint(folder)
        == "no pipeline, it has no model_index.json (there is scheduler, text_encoder, tokenizer, vae)"
    )


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"_class_name": "KandinskyPipeline"}, "it is a KandinskyPipeline; supported: Stable"),
        ({"unet": None}, "its model_index.json names no unet"),
        ({"unet": ["ppdiffusers", "BertModel"]}, "its unet is a BertModel; supported: UNet2DConditionModel"),
        ({"unet": ["os", "system"]}, "names os.system as unet, which this tool does not import"),
        ({"vae": ["ppdiffusers"]}, "its model_index.json can't be read (the entry of vae)"),
    ],
)
def test_other_pipelines_and_parts_are_refused(folder, changes, named):
    edit_index(folder, **changes)
    assert named in complaint(folder)


@pytest.mark.parametrize(
    "pipeline, other, fault",
    [
        ("StableDiffusionInpaintPipeline", "StableDiffusionPipeline", "in_channels is 4, and 9 fits"),
        ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "in_channels is 9, and 4 fits"),
        ("StableDiffusionPipeline", "StableDiffusionUpscalePipeline", "in_channels is 7, and 4 fits"),
        ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "addition_embed_type is text_time, and None fits"),
        ("StableDiffusionXLPipeline", "StableDiffusionPipeline", "cross_attention_dim is 32, and 72 fits"),
        ("StableDiffusionUpscalePipeline", "StableDiffusionPipeline", "in_channels is 4, and 7 fits"),
        ("IFPipeline", "IFSuperResolutionPipeline", "in_channels is 6, and 3 fits"),
        ("IFPipeline", "IFSuperResolutionPipeline", "class_embed_type: none of them fits"),
        ("IFSuperResolutionPipeline", "IFPipeline", "class_embed_type: one of them fits"),
        ("IFPipeline", "StableDiffusionPipeline", "addition_embed_type is None, and text fits"),
    ],
)
def test_a_unet_of_another_family_is_refused(tmp_path, pipeline, other, fault):
    for each in (pipeline, other):
        BUILDERS[each](tmp_path / each)
    folder = tmp_path / pipeline
    pipeline_folder.check(str(folder))
    shutil.rmtree(folder / "unet")
    shutil.copytree(tmp_path / other / "unet", folder / "unet")
    assert fault in complaint(folder) and f"unet/config.json is not that of a {pipeline} with" in complaint(folder)


@pytest.mark.parametrize(
    "pipeline, part, setting, value, fault",
    [
        ("StableDiffusionXLPipeline", "text_encoder_2", "projection_dim", 40, "_input_dim is 80, and 88 fits"),
        ("StableDiffusionXLPipeline", "text_encoder", "hidden_size", 48, "cross_attention_dim is 72, and 88 fits"),
        ("StableDiffusion3Pipeline", "text_encoder_3", "d_model", 96, "joint_attention_dim is 80, and 96 fits"),
        ("StableDiffusion3Pipeline", "text_encoder", "projection_dim", 24, "pooled_projection_dim is 64, and 56 fits"),
        ("StableDiffusion3Pipeline", "text_encoder", "hidden_size", 48, "attention_dim is 80, and at least 88 fits"),
        ("UniDiffuserPipeline", "text_encoder", "max_position_embeddings", 24, "text_tokens is 16, and 24 fits"),
        ("IFPipeline", "text_encoder", "d_model", 48, "encoder_hid_dim is 40, and 48 fits"),
        ("IFSuperResolutionPipeline", "text_encoder", "d_model", 48, "encoder_hid_dim is 40, and 48 fits"),
        ("UniDiffuserPipeline", "image_encoder", "projection_dim", 32, "clip_img_dim is 24, and 32 fits"),
        ("UniDiffuserPipeline", "text_decoder", "prefix_hidden_dim", 24, "text_dim is 16, and 24 fits"),
        ("StableDiffusionUpscalePipeline", "text_encoder", "hidden_size", 48, "cross_attention_dim is 32, and 48 fits"),
    ],
)
def test_a_part_of_another_width_is_refused(tmp_path, pipeline, part, setting, value, fault):
    folder = BUILDERS[pipeline](tmp_path / "twin")
    pipeline_folder.check(str(folder))
    path = folder / part / "config.json"
    settings = json.loads(path.read_text())
    assert setting in settings
    path.write_text(json.dumps({**settings, setting: value}))
    assert fault in complaint(folder)
    path.write_text(json.dumps({**settings, setting: str(value)}))
    pipeline_folder.check(str(folder))  # the library says what it can't read


@pytest.mark.parametrize("value", ["4", None, [4]])
def test_a_vae_whose_channels_are_no_number_is_refused(folder, value):
    path = folder / "vae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_channels": value}))
    assert complaint(folder) == f"vae/config.json can't be used (latent_channels is {value})"


@pytest.mark.parametrize("most", [19, "many", None])
def test_an_upscaler_without_the_level_of_noise_is_refused(tmp_path, most):
    folder = BUILDERS["StableDiffusionUpscalePipeline"](tmp_path / "twin")
    edit_index(folder, max_noise_level=20)
    pipeline_folder.check(str(folder))
    path = folder / "unet/config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "num_class_embeds": 20}))
    assert "num_class_embeds is 20, and the small picture gets noise of the level 20" in complaint(folder)
    edit_index(folder, max_noise_level=most)
    assert f"max_noise_level is {most}, and the small picture gets noise of the level 20" in complaint(folder)


@pytest.mark.parametrize(
    "file", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
)
@pytest.mark.parametrize("text, fault", [("[]", "it is no JSON object"), ("{", "Expecting property name")])
def test_settings_that_can_not_be_read_are_named(file, text, fault, folder):
    (folder / file).write_text(text)
    assert f"{file} can't be read ({fault}" in complaint(folder)


def test_a_fingerprint_depends_on_settings_and_files_and_not_on_the_folders_name(folder, twin):
    one = pipeline_folder.fingerprint(str(twin))
    assert pipeline_folder.fingerprint(str(folder)) == one and one.startswith("weights ")
    config = folder / "unet/config.json"
    config.write_text(config.read_text() + "\n")
    other = pipeline_folder.fingerprint(str(folder))
    assert other != one
    (folder / "vae/extra.bin").write_bytes(b"1")
    assert pipeline_folder.fingerprint(str(folder)) not in (one, other)
    assert pipeline_folder.fingerprint("somebody/model") == "somebody/model"


def test_a_fingerprint_tells_weights_of_the_same_sizes_apart(folder, twin, monkeypatch):
    monkeypatch.setattr(pipeline_folder, "_SAMPLE", 64)  # so that not all bytes are read
    [path] = (folder / "unet").glob("*.safetensors")
    assert path.stat().st_size > 64 * pipeline_folder._SAMPLES
    one = pipeline_folder.fingerprint(str(folder))
    assert one == pipeline_folder.fingerprint(str(twin), before="weights 123")
    by_size = pipeline_folder.fingerprint(str(folder), before="files 123")
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), 40):
        content[place] ^= 1
    path.unlink()
    path.write_bytes(content)
    assert pipeline_folder.fingerprint(str(folder)) != one
    # a checkpoint of an earlier version recorded names and sizes alone
    assert by_size.startswith("files ") and pipeline_folder.fingerprint(str(folder), before="files 123") == by_size


@pytest.mark.parametrize("part, key, value", [("text_encoder", "num_attention_heads", -1), ("unet", "in_channels", 0)])
def test_a_size_that_no_network_has_is_named(twin, tmp_path, part, key, value):
    model = shutil.copytree(twin, tmp_path / "model")
    path = model / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(BadInput, match=f"--pretrained_model_name_or_path .*: {part}/config.json .*{key} is {value}"):
        pipeline_folder.check(str(model))
