"""Whole runs with other layers, losses, noise and optimizers: what results, and that a resumed run is the same."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import command_line, train, train_in_one_and_two_processes, train_whole_and_in_parts
from support.families import load_family
from support.slowly import mostly_slow
from support.weights import assert_same, mean_difference

import infer
from dreambooth import export
from dreambooth.models import loading, schedulers
from dreambooth.system.errors import BadInput
from dreambooth.training.objective.diffusion import diffusion_for

PRIOR = dict(prior_by_prediction=True, class_prompt="a photo of a dog")
LORA = dict(lora_rank=4, learning_rate=1e-2)
EVERY_LAYER = dict(**LORA, lora_targets=["all", "conv_in$"], lora_ranks=["convolution=2"], lora_alphas=["time=8"])
OTHER_NOISE = dict(snr_gamma=5, noise_offset=0.1, input_perturbation=0.1, timestep_shift=2, min_timestep=10)
METHODS = {
    "LoRA": dict(**EVERY_LAYER, **PRIOR, **OTHER_NOISE, lora_dropout=0.3, train_text_encoder=True),
    "DoRA": dict(EVERY_LAYER, use_dora=True, use_rslora=True, loraplus_lr_ratio=4, optimizer="prodigy"),
    "whole": dict(**PRIOR, train_text_encoder=True, loss_type="huber", max_timestep=900, optimizer="lion"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(method, twin, pictures, tmp_path):
    train_whole_and_in_parts(twin, pictures, tmp_path, **METHODS[method])
    for part in ("unet", "text_encoder") if method == "whole" else ("",):
        assert_same(tmp_path / "whole" / part, tmp_path / "parts" / part)


@pytest.mark.parametrize("method", mostly_slow(METHODS))
def test_two_processes_learn_what_one_does(method, twin, pictures, tmp_path):
    settings = METHODS[method]
    train_in_one_and_two_processes(twin, pictures, tmp_path, **settings)
    part = "unet" if method == "whole" else ""
    same, other = (mean_difference(tmp_path / "one" / part, tmp_path / name / part) for name in ("two", "other"))
    assert same < 2e-2 * other


def drawn(folder, out, *more):
    infer.main(["--model_path", str(folder), "--prompt", "a photo of sks dog", "--output", str(out), *map(str, more),
                "--num_inference_steps", "4", "--height", "32", "--width", "32"])  # fmt: skip
    from PIL import Image

    return np.asarray(Image.open(out)).astype(int)


@pytest.mark.parametrize("method", ["LoRA", "DoRA"])
def test_the_lora_its_checkpoint_and_the_merged_pipeline_draw_the_same(method, twin, pictures, tmp_path):
    settings = dict(METHODS[method], lora_merge=True, save_steps=3, max_train_steps=3, train_text_encoder=True)
    settings["optimizer"] = "adamw"
    train(command_line(twin, pictures, tmp_path / "out", **settings))
    merged = drawn(tmp_path / "out", tmp_path / "merged.png")
    lora = tmp_path / "out/paddle_lora_weights.safetensors"
    for name, model, more in (
        ("lora", twin, ["--lora", lora]),
        ("checkpoint", tmp_path / "out/checkpoint-3", []),
    ):
        assert np.abs(drawn(model, tmp_path / f"{name}.png", *more) - merged).max() <= 1, name
    assert np.abs(drawn(twin, tmp_path / "base.png") - merged).max() > 2
    # the formats of other tools read back the same
    for form in ("lora_diffusers", "lora_web_ui"):
        path = tmp_path / f"{form}.safetensors"
        export.main([f"--model_path={tmp_path / 'out/checkpoint-3'}", f"--format={form}", f"--output={path}"])
        assert np.abs(drawn(twin, tmp_path / f"{form}.png", "--lora", path) - merged).max() <= 1, form


def test_the_plan_and_the_card_name_the_layers(twin, pictures, tmp_path, capsys):
    train(command_line(twin, pictures, tmp_path / "out", **METHODS["DoRA"], **PRIOR))
    said, card = capsys.readouterr().out, (tmp_path / "out/README.md").read_text()
    words = "a DoRA of rank 4 (attention), rank 4 (feed_forward), rank 2 (convolution), rank 4 (time)"
    assert f"learning  {words}, rank 4 (conv_in$) beside unet" in said
    assert words in card and "load_lora_weights" not in card
    assert '"a photo of a dog" kept, by the base model\'s predictions, weight 1' in card


def test_a_target_without_layers_is_refused(twin, pictures, tmp_path):
    with pytest.raises(BadInput, match="--lora_targets atention: the unet has no such layers"):
        train(command_line(twin, pictures, tmp_path / "out", **LORA, lora_targets=["atention"]))
    settings = dict(LORA, lora_targets=["time"], train_text_encoder=True)
    with pytest.raises(BadInput, match="--lora_targets time: the text_encoder has no such layers; add attention"):
        train(command_line(twin, pictures, tmp_path / "out", **settings))


def test_the_second_matrices_move_faster_with_lora_plus(twin, pictures, tmp_path):
    """The first update of AdamW moves each weight by its rate; at the start the second matrices are zero."""
    moved = []
    for name, ratio in (("plain", None), ("plus", 4)):
        line = command_line(twin, pictures, tmp_path / name, **LORA, loraplus_lr_ratio=ratio, max_train_steps=1)
        train(line)
        file = load_file(tmp_path / name / "paddle_lora_weights.safetensors")
        moved.append(np.mean([np.abs(each).mean() for key, each in file.items() if ".up." in key]))
    assert moved[1] == pytest.approx(4 * moved[0], rel=1e-2)


def losses(folder, name):
    from visualdl import LogReader

    [log] = (folder / "logs").glob("vdlrecords*")
    return [each.value for each in LogReader(file_path=str(log)).get_data("scalar", f"training/{name}")]


@pytest.mark.parametrize("method", ["LoRA", "whole"])
def test_the_class_begins_where_the_base_model_is(method, twin, pictures, tmp_path):
    """At the first update the model predicts what it predicted before, so that there is no loss of the class."""
    settings = dict(METHODS[method], input_perturbation=0, lora_dropout=None)
    train(command_line(twin, pictures, tmp_path / "out", **settings, max_train_steps=4))
    found = losses(tmp_path / "out", "prior_loss")
    assert found[0] < 1e-9 < found[-1]
    assert not (tmp_path / "class").exists()


def test_the_class_stays_nearer_to_the_base_model_with_its_loss(twin, pictures, tmp_path):
    """Where the class is: at drafts of its own, with noise."""
    import paddle

    def distance(folder):
        base, tuned = load_family(twin), load_family(folder)
        chain = diffusion_for(base.pipeline.scheduler)
        hidden = {"hidden": base.encode_prompts(["a photo of a dog"])["hidden"].tile([4, 1, 1])}
        noise, other = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 4, 4, 16, 16)).astype(np.float32))
        with paddle.no_grad():
            drafts = chain.clean(noise, base.predict(noise, chain.last(4), hidden), chain.last(4))
            t = paddle.to_tensor([200, 400, 600, 800])
            noisy = chain.add_noise(drafts, other, t)
            return float((base.predict(noisy, t, hidden) - tuned.predict(noisy, t, hidden)).square().mean())

    settings = dict(LORA, lora_targets=["all"], max_train_steps=40, train_batch_size=2)
    train(command_line(twin, pictures, tmp_path / "free", **settings))
    train(command_line(twin, pictures, tmp_path / "kept", **settings, **PRIOR, prior_loss_weight=3))
    kept, free = (distance(tmp_path / name) for name in ("kept", "free"))
    assert kept < 0.5 * free, (kept, free)


def test_class_pictures_can_have_the_base_models_predictions(twin, pictures, class_pictures, tmp_path):
    own = dict(PRIOR, with_prior_preservation=True, class_data_dir=class_pictures, num_class_images=4)
    train(command_line(twin, pictures, tmp_path / "out", **LORA, **own))
    assert losses(tmp_path / "out", "prior_loss")[0] < 1e-9
    assert "4 pictures" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "LoRA"])
def test_a_noise_schedule_that_ends_in_noise_alone_is_saved_and_drawn_with(lora, velocity_twin, pictures, tmp_path):
    settings = dict(zero_terminal_snr=True, save_steps=2, validation_prompt="a photo of sks dog", **lora)
    train(command_line(velocity_twin, pictures, tmp_path / "out", **settings, num_validation_images=1))
    out = tmp_path / "out"
    assert list((out / "samples").glob("*.png"))
    for folder in (out, out / "checkpoint-2"):
        family = load_family(folder)
        assert schedulers.has_zero_snr(family.pipeline.scheduler)
        assert float(family.pipeline.scheduler.alphas_cumprod[-1]) == 0
        for solver in ("ddim", "dpmsolver++", "euler"):
            assert drawn(folder, tmp_path / "x.png", "--scheduler", solver).std() > 0
    if lora:
        file = out / "paddle_lora_weights.safetensors"
        family = load_family(velocity_twin)
        loading.merge_lora(family, file, 1.0, "--lora")
        assert schedulers.has_zero_snr(family.pipeline.scheduler)
    else:
        saved = json.loads((out / "scheduler/scheduler_config.json").read_text())
        assert saved["rescale_betas_zero_snr"] and saved["timestep_spacing"] == "trailing"
        assert saved["prediction_type"] == "v_prediction"


def test_it_is_refused_where_the_model_predicts_the_noise(flags):
    with pytest.raises(BadInput, match="--zero_terminal_snr: this model predicts the noise"):
        train(flags(zero_terminal_snr=True))


def test_a_noise_offset_is_refused_for_latents_without_channels(unidiffuser_twin, pictures, tmp_path):
    with pytest.raises(BadInput, match="--noise_offset: the latents of this model have no channels"):
        train(command_line(unidiffuser_twin, pictures, tmp_path / "out", noise_offset=0.1))
