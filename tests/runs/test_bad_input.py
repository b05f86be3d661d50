"""Bad input of every kind: one line on standard error that names the flag, exit code 2, nothing written."""

import json
import os
import shutil

import pytest
from PIL import Image
from support.commands import command_line, python
from support.pictures import draw_pictures


def files_under(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(tmp_path, line, *named, script="train_dreambooth.py", **environment):
    before = files_under(tmp_path)
    done = python(script, *line, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    [message] = [line for line in done.stderr.splitlines() if "updates seldom teach" not in line]
    assert message.startswith("error: ") and done.stdout == ""
    for word in named:
        assert word in message
    assert files_under(tmp_path) == before
    return message


@pytest.fixture
def bad(flags, tmp_path):
    return lambda *named, **changes: refused(tmp_path, flags(**changes), *named)


def test_a_folder_without_pictures_is_named(bad, tmp_path):
    bad("--instance_data_dir", "no such folder", instance_data_dir=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    bad("--instance_data_dir", "empty", instance_data_dir=tmp_path / "empty")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/notes.txt").write_text("no picture")
    bad("--instance_data_dir", "none of its 1 files is a picture", instance_data_dir=tmp_path / "notes")


def test_a_broken_picture_is_named(bad, tmp_path):
    folder = draw_pictures(tmp_path / "pictures", 3)
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    bad("--instance_data_dir", "1.png", "can't be read", instance_data_dir=folder)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(resolution=None, height=100), "--height 100"),
        (dict(resolution=100), "--resolution 100"),
        (dict(train_batch_size=0), "--train_batch_size 0"),
        (dict(max_train_steps=-1), "--max_train_steps -1"),
        (dict(learning_rate="nan"), "--learning_rate nan"),
        (dict(learning_rate=0), "--learning_rate 0"),
        (dict(learning_rate="fast"), "--learning_rate"),
        (dict(prior_loss_weight="inf"), "--prior_loss_weight inf"),
        (dict(save_steps=0), "--save_steps 0"),
        (dict(seed=-1), "--seed -1"),
        (dict(mixed_precision="fp8"), "--mixed_precision"),
        (dict(with_prior_preservation=True, class_prompt="a dog"), "--class_data_dir"),
        (dict(with_prior_preservation=True, class_data_dir="dogs"), "--class_prompt"),
        (dict(instance_prompt=" "), "--instance_prompt"),
        (dict(validation_steps=5), "--validation_prompt"),
        (dict(no_such_flag=1), "--no_such_flag"),
    ],
)
def test_a_flag_out_of_bounds_is_named(bad, changes, named):
    bad(named, **changes)


def test_a_class_prompt_equal_to_the_instance_prompt_is_only_a_warning(flags, tmp_path, class_pictures):
    same = "a photo of sks dog"
    line = flags(with_prior_preservation=True, class_prompt=same, class_data_dir=class_pictures, num_class_images=4)
    done = python("train_dreambooth.py", *line, "--dry_run")
    assert done.returncode == 0
    warnings = [each for each in done.stderr.splitlines() if each.startswith("warning:")]
    [warning] = [each for each in warnings if "updates seldom teach" not in each]
    assert "--class_prompt is the same as --instance_prompt" in warning


def test_a_missing_model_is_named(bad, tmp_path):
    bad("--pretrained_model_name_or_path", "no such folder", pretrained_model_name_or_path=tmp_path / "nowhere")
    bad(
        "--pretrained_model_name_or_path",
        "nobody/no-such-model",
        "could not be fetched",
        pretrained_model_name_or_path="nobody/no-such-model",
    )


def test_a_folder_that_is_no_pipeline_is_refused_with_the_missing_part(bad, twin, tmp_path):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(twin, folder)
        change(folder)
        return folder

    def edit(folder, part, value):
        index = json.loads((folder / "model_index.json").read_text())
        index[part] = value
        (folder / "model_index.json").write_text(json.dumps(index))

    cases = [
        ("no index", lambda folder: (folder / "model_index.json").unlink(), "it has no model_index.json"),
        ("bad index", lambda folder: (folder / "model_index.json").write_text("{"), "can't be read"),
        ("no vae", lambda folder: shutil.rmtree(folder / "vae"), "it has no folder vae/"),
        ("no config", lambda folder: (folder / "unet/config.json").unlink(), "unet/config.json is missing"),
        (
            "no weights",
            lambda folder: [each.unlink() for each in (folder / "unet").glob("*.safetensors")],
            "no weights",
        ),
        ("other", lambda folder: edit(folder, "_class_name", "KandinskyPipeline"), "KandinskyPipeline"),
        ("t5", lambda folder: edit(folder, "text_encoder", ["transformers", "T5EncoderModel"]), "T5EncoderModel"),
        ("flow", lambda folder: edit(folder, "scheduler", ["ppdiffusers", "FlowMatchScheduler"]), "FlowMatchScheduler"),
    ]
    for name, change, named in cases:
        bad("--pretrained_model_name_or_path", named, pretrained_model_name_or_path=broken(name, change))


def test_a_broken_weight_file_is_an_error_of_the_model(bad, twin, tmp_path):
    shutil.copytree(twin, tmp_path / "broken")
    [path] = (tmp_path / "broken/unet").glob("*.safetensors")
    path.write_bytes(b"no weights")
    bad("--pretrained_model_name_or_path", "can't be loaded", pretrained_model_name_or_path=tmp_path / "broken")


def test_an_output_folder_with_foreign_files_is_refused(bad, twin, pictures, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    bad("--output_dir", "thesis.tex")
    (tmp_path / "file").write_text("a file")
    bad("--output_dir", "no folder that can be written", output_dir=tmp_path / "file")
    bad("--output_dir", "no folder that can be written", output_dir=tmp_path / "file/below")
    refused(tmp_path, command_line(twin, pictures, twin), "--output_dir", "base model's own folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_cannot_be_written_is_refused(bad, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    bad("--output_dir", "no folder that can be written", output_dir=tmp_path / "locked/out")


def test_a_missing_checkpoint_is_named(bad):
    bad("--resume_from_checkpoint", "checkpoint-400", resume_from_checkpoint="checkpoint-400")


def test_the_class_folder_must_be_another_folder(bad, pictures):
    prior = dict(with_prior_preservation=True, class_prompt="a dog")
    bad("--class_data_dir", "same folder", class_data_dir=pictures, **prior)
    bad("--class_data_dir", "no folder that can be written", class_data_dir=pictures / "0.png", **prior)
    bad("--class_data_dir", "no folder that can be written", class_data_dir=pictures / "0.png/below", **prior)


def test_a_log_folder_that_cannot_be_made_is_named(bad, pictures):
    bad("--logging_dir", "no folder that can be written", logging_dir=pictures / "0.png/logs")


def test_a_name_too_long_for_the_system_is_one_line(bad):
    bad("x" * 300, output_dir="x" * 300)


def test_a_folder_with_another_programs_record_is_refused(bad, tmp_path):
    (tmp_path / "out/unet").mkdir(parents=True)
    (tmp_path / "out/training_args.json").write_text('{"lr": 1}')
    (tmp_path / "out/unet/thesis.tex").write_text("years of work")
    bad("--output_dir", "training_args.json")


def test_a_model_that_lacks_weights_is_refused(bad, twin, tmp_path):
    from safetensors.numpy import load_file, save_file

    for part, lost in (
        ("unet", "up_blocks.0."),
        ("text_encoder", "text_model.encoder.layers.1."),
        ("vae", "decoder.mid"),
    ):
        shutil.copytree(twin, tmp_path / part)
        [path] = (tmp_path / part / part).glob("*.safetensors")
        kept = {name: value for name, value in load_file(path).items() if not name.startswith(lost)}
        save_file(kept, path, metadata={"format": "np" if part == "text_encoder" else "pd"})
        bad("lack", lost, pretrained_model_name_or_path=tmp_path / part)


@pytest.mark.parametrize(
    "flags, named",
    [
        ([], "--model_path"),
        (["--model_path", "{twin}"], "--prompt"),
        (["--model_path", "/nowhere", "--prompt", "a"], "--model_path /nowhere"),
        (["--model_path", "{twin}", "--prompt", " "], "--prompt"),
        (["--model_path", "{twin}", "--prompt", "a", "--height", "30"], "--height 30"),
        (["--model_path", "{twin}", "--prompt", "a", "--num_images", "0"], "--num_images 0"),
        (["--model_path", "{twin}", "--prompt", "a", "--seed", "-1"], "--seed -1"),
        (["--model_path", "{twin}", "--prompt", "a", "--guidance_scale", "nan"], "--guidance_scale nan"),
        (["--model_path", "{twin}", "--prompt", "a", "--scheduler", "unipc"], "--scheduler"),
        (["--model_path", "{twin}", "--prompt", "a", "b", "--output", "x.png"], "--output x.png"),
        (["--model_path", "{twin}", "--prompt", "a", "--output", "x.jpg"], "--output x.jpg"),
        (["--model_path", "{twin}", "--prompt", "a", "--output_dir", "{twin}/model_index.json"], "--output_dir"),
        (["--model_path", "{twin}", "--prompt", "a", "--output", "{twin}/model_index.json/x.png"], "--output"),
        (["--model_path", "{twin}", "--prompt", "a", "--num_inference_steps", "1001"], "--num_inference_steps 1001"),
    ],
)
def test_bad_input_to_infer_is_named(tmp_path, twin, flags, named):
    refused(tmp_path, [each.format(twin=twin) for each in flags], named, script="infer.py")


def test_verbose_shows_the_cause_of_a_loading_error(flags, twin, tmp_path):
    shutil.copytree(twin, tmp_path / "broken")
    settings = tmp_path / "broken/unet/config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "norm_num_groups": 5}))
    done = python("train_dreambooth.py", *flags(pretrained_model_name_or_path=tmp_path / "broken"), "--verbose")
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_broken_class_pictures_do_not_count(flags, tmp_path):
    folder = draw_pictures(tmp_path / "class", 3)
    (folder / "2.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(folder / "fine.jpg")
    line = flags(with_prior_preservation=True, class_prompt="a dog", class_data_dir=folder, num_class_images=5)
    done = python("train_dreambooth.py", *line, "--dry_run")
    assert "5 pictures" in done.stdout and "2 of them still to be drawn" in done.stdout
    assert "2.png" in done.stderr and "not counted" in done.stderr
