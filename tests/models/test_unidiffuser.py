"""The UniDiffuser family: its encodings against the library's own pipeline, what learns, and the whole road."""

import json
import shutil

import numpy as np
import paddle
import pytest
from PIL import Image
from support.commands import command_line, train
from support.exactness import assert_exact
from support.families import load_family, load_pipeline
from support.slowly import mostly_slow
from support.weights import assert_same, weights

import infer
from dreambooth import export
from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.files import safetensors
from dreambooth.files.safetensors import Reader
from dreambooth.models import tokenizers
from dreambooth.system.errors import BadInput

PROMPTS = ["a photo of sks dog", "a photo of a dog"]


@pytest.fixture
def family(unidiffuser_twin):
    return load_family(unidiffuser_twin)


@pytest.fixture
def pixels():
    paddle.seed(3)
    return (paddle.rand([2, 3, 32, 32]) * 255).round() / 127.5 - 1


def test_a_prompts_embedding_is_what_the_pipeline_draws_with(family, monkeypatch):
    seen = []
    whole = type(family.pipeline)._get_noise_pred

    def listening(self, mode, latents, t, prompt_embeds, *more):
        seen.append(prompt_embeds)
        return whole(self, mode, latents, t, prompt_embeds, *more)

    monkeypatch.setattr(type(family.pipeline), "_get_noise_pred", listening)
    family.pipeline(prompt=PROMPTS[0], num_inference_steps=1, guidance_scale=1.0)
    np.testing.assert_array_equal(seen[0].numpy(), family.encode_prompts(PROMPTS[:1])["hidden"].numpy())


def test_a_pictures_encodings_are_the_pipelines_own(family, pixels):
    encoding = family.encode_pictures(pixels)
    mean = family.pipeline.vae.encode(pixels).latent_dist.mean
    np.testing.assert_array_equal(encoding["mean"].numpy(), mean.numpy())
    pictures = [Image.fromarray(((each + 1) * 127.5).round().astype("uint8")) for each in pixels.transpose([0, 2, 3, 1]).numpy()]  # fmt: skip  # noqa: E501
    wanted = family.pipeline.encode_image_clip_latents(pictures, 2, 1, "float32")
    np.testing.assert_array_equal(encoding["clip"].numpy(), wanted.numpy())


def test_both_parts_are_noised_and_learned(family, pixels):
    encoding = family.encode_pictures(pixels)
    row = family.latents(encoding, paddle.zeros(encoding["mean"].shape))
    latents = encoding["mean"] * family.pipeline.vae.config.scaling_factor
    np.testing.assert_array_equal(row[:, :1024].numpy(), latents.reshape([2, -1]).numpy())
    np.testing.assert_array_equal(row[:, 1024:].numpy(), encoding["clip"].numpy())
    paddle.seed(4)
    errors = paddle.rand(row.shape)
    scaled = family.scaled_for_loss(row + errors) - family.scaled_for_loss(row)
    parts = errors[:, :1024].square().mean() + errors[:, 1024:].square().mean()
    np.testing.assert_allclose(float(scaled.square().mean()), float(parts), rtol=1e-4)


def test_a_prediction_is_the_networks_own_with_a_text_without_noise(family, pixels):
    noisy = family.latents(family.encode_pictures(pixels), paddle.zeros([2, 4, 16, 16]))
    text, times = family.encode_prompts(PROMPTS), paddle.to_tensor([7, 900])
    got = family.predict(noisy, times, text)
    picture, embedding = noisy[:, :1024].reshape([2, 4, 16, 16]), noisy[:, 1024:].unsqueeze(1)
    wanted = family.pipeline.unet(picture, embedding, text["hidden"], timestep_img=times, timestep_text=0, data_type=1)
    np.testing.assert_array_equal(got[:, :1024].numpy(), wanted[0].reshape([2, -1]).numpy())
    np.testing.assert_array_equal(got[:, 1024:].numpy(), wanted[1].reshape([2, -1]).numpy())


def gradients(family, pixels):
    family.prepare_training(gradient_checkpointing=False)
    noisy = family.latents(family.encode_pictures(pixels), paddle.zeros([2, 4, 16, 16]))
    prediction = family.predict(noisy, paddle.to_tensor([7, 900]), family.encode_prompts(PROMPTS))
    part = family.scaled_for_loss(prediction)
    part.square().mean().backward()
    return {
        f"{folder}.{name}": float(parameter.grad.abs().max()) if parameter.grad is not None else None
        for folder, network in family.networks().items()
        for name, parameter in network.named_parameters()
        if not parameter.stop_gradient
    }


def test_what_takes_gradients_gets_some(family, pixels):
    found = gradients(family, pixels)
    assert found and all(found.values()), [name for name, value in found.items() if not value]
    assert {name.split(".")[0] for name in found} == {"unet"}


def test_the_text_encoder_learns_through_the_decoders_first_layer(unidiffuser_twin, pixels):
    found = gradients(load_family(unidiffuser_twin, train_text_encoders=True), pixels)
    assert {name.split(".")[0] for name in found} == {"unet", "text_encoder"}
    assert all(found.values()), [name for name, value in found.items() if not value]


def test_only_what_is_needed_stays(unidiffuser_twin):
    for learns, stays in ((False, {"unet"}), (True, {"unet", "text_encoder", "text_decoder"})):
        family = load_family(unidiffuser_twin, train_text_encoders=learns)
        family.prepare_training(gradient_checkpointing=False)
        family.free_encoders()
        assert set(family.networks()) == stays
        assert set(family.whole().pipeline.components) == set(load_pipeline(unidiffuser_twin).components)


def test_what_it_can_not_do_is_refused(family, unidiffuser_twin):
    family.check_training((32, 32), gradient_checkpointing=False)
    with pytest.raises(BadInput, match="--width 64: this model takes pictures of 32 x 32 only"):
        family.check_training((32, 64), gradient_checkpointing=False)
    with pytest.raises(BadInput, match="--gradient_checkpointing"):
        family.check_training((32, 32), gradient_checkpointing=True)
    for flags, complaint in (
        (["--negative_prompt", "a cat"], "--negative_prompt"),
        (["--scheduler", "euler"], "--scheduler euler"),
        (["--width", "64"], "draws 32 x 32 only"),
    ):
        with pytest.raises(BadInput, match=complaint):
            infer.main(["--model_path", str(unidiffuser_twin), "--prompt", "a dog", *flags])


def test_the_tokenizer_is_the_one_that_reads_the_prompts(family):
    assert "red hat" in tokenizers.truncated(family, "a " * 20 + "red hat")[1]


@pytest.mark.parametrize("scheduler", [None, "ddim", "ddpm", "dpmsolver++", "pndm"])
def test_a_picture_is_a_function_of_seed_and_number(scheduler, unidiffuser_twin):
    family = load_family(unidiffuser_twin)
    settings = DrawSettings(1, "picture", (32, 32), steps=4, scheduler=scheduler, batch_size=2)
    two = list(sampling.draw(family, settings, [("a dog", 0), ("a dog", 1)]))
    paddle.seed(99)
    [second] = sampling.draw(family, settings, [("a dog", 1)])
    assert np.array_equal(two[1], second) and not np.array_equal(two[0], two[1])


def test_a_scheduler_that_it_can_not_draw_with_is_refused_before_training(unidiffuser_twin, pictures, tmp_path):
    line = command_line(
        unidiffuser_twin, pictures, tmp_path / "out", validation_prompt=["a dog"], prior_scheduler="euler"
    )
    with pytest.raises(
        BadInput, match="^--prior_scheduler euler: a UniDiffuser can't draw with it; it can with ddim, "
    ):
        train(line)
    assert not (tmp_path / "out").exists()


# the whole road


def run(twin, pictures, folder, **changes):
    """The common flags of a run on the twin, with class pictures."""
    settings = dict(with_prior_preservation=True, class_prompt="a photo of a dog", num_class_images=2)
    return command_line(twin, pictures, folder, class_data_dir=folder.parent / "class", **settings | changes)


def test_the_whole_road(unidiffuser_twin, pictures, tmp_path, capsys):
    from ppdiffusers import UniDiffuserPipeline

    train(run(unidiffuser_twin, pictures, tmp_path / "out", max_train_steps=3, train_text_encoder=True))
    assert len(list((tmp_path / "class").glob("*/*.png"))) == 2
    base, learned = (
        load_pipeline(unidiffuser_twin),
        UniDiffuserPipeline.from_pretrained(str(tmp_path / "out")),
    )
    changed = {
        part for part in base.components
        if hasattr(getattr(base, part), "state_dict")
        and any(not np.array_equal(one.numpy(), other.numpy()) for one, other in
                zip(getattr(base, part).state_dict().values(), getattr(learned, part).state_dict().values()))
    }  # fmt: skip
    assert changed == {"unet", "text_encoder"}
    before, after = base.unet.state_dict(), learned.unet.state_dict()
    kept = {name for name in before if np.array_equal(before[name].numpy(), after[name].numpy())}
    assert kept == {name for name in before if name.startswith(("text_out.", "transformer.pos_embed."))}
    card = (tmp_path / "out/README.md").read_text()
    assert "from ppdiffusers import UniDiffuserPipeline" in card
    capsys.readouterr()
    infer.main(["--model_path", str(tmp_path / "out"), "--prompt", "a photo of sks dog", "--num_inference_steps", "3",
                "--output", str(tmp_path / "dog.png")])  # fmt: skip
    assert Image.open(tmp_path / "dog.png").size == (32, 32)


def test_diffusers_has_no_loader_for_its_lora(unidiffuser_twin, pictures, tmp_path, capsys):
    """It is told where the base is not here, too: the record knows the base's classes."""
    base = shutil.copytree(unidiffuser_twin, tmp_path / "base")
    line = command_line(base, pictures, tmp_path / "out", lora_rank=2, max_train_steps=1, save_steps=1)
    train([*line, "--save_format", "diffusers"])
    assert "--save_format diffusers: diffusers loads no LoRA of a UniDiffuserPipeline" in capsys.readouterr().err
    shutil.rmtree(base)
    line = ["--model_path", str(tmp_path / "out/checkpoint-1"), "--output", str(tmp_path / "lora.safetensors")]
    export.main([*line, "--format", "lora_diffusers"])
    assert "diffusers loads no LoRA of a UniDiffuserPipeline" in capsys.readouterr().err
    line[-1] = str(tmp_path / "paddle.safetensors")
    export.main([*line, "--format", "lora_paddle"])
    assert capsys.readouterr().err == ""


METHODS = {
    "DoRA": dict(lora_rank=2, use_dora=True, prior_by_prediction=True, class_prompt="a dog", train_text_encoder=True),
    "Min-SNR": dict(snr_gamma=5, timestep_shift=2, ema_decay=0.5, train_text_encoder=True),
}


@pytest.mark.parametrize("method", mostly_slow(METHODS))
def test_other_methods_resume_bit_for_bit_and_do_not_depend_on_the_processes(
    method, unidiffuser_twin, pictures, tmp_path
):
    assert_exact(unidiffuser_twin, pictures, tmp_path, **METHODS[method])


def test_a_stopped_run_goes_on_bit_for_bit_and_the_cache_changes_nothing(unidiffuser_twin, pictures, tmp_path):
    train(run(unidiffuser_twin, pictures, tmp_path / "whole", max_train_steps=4))
    train(run(unidiffuser_twin, pictures, tmp_path / "parts", max_train_steps=2, save_steps=2))
    train(run(unidiffuser_twin, pictures, tmp_path / "parts", max_train_steps=4, resume_from_checkpoint="latest"))
    assert_same(tmp_path / "whole/unet", tmp_path / "parts/unet")
    train(run(unidiffuser_twin, pictures, tmp_path / "fresh", max_train_steps=4, no_cache_latents=True))
    one, other = weights(tmp_path / "whole/unet"), weights(tmp_path / "fresh/unet")
    assert max(float(np.abs(one[name] - other[name]).max()) for name in one) < 1e-4
    state = json.loads((tmp_path / "parts/checkpoint-2/state.json").read_text())
    assert state["step"] == 2


def test_a_checkpoint_of_a_version_with_another_loss_goes_on_only_where_that_is_allowed(
    unidiffuser_twin, pictures, tmp_path, capsys
):
    train(run(unidiffuser_twin, pictures, tmp_path / "out", max_train_steps=2, save_steps=1))
    checkpoint = tmp_path / "out/checkpoint-1"
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["course"].pop("the loss") == "of the latents and the embedding"
    moments = dict(Reader(checkpoint / "optimizer.safetensors"))
    earlier = {name: each for name, each in moments.items() if "clip_img_out" not in name}  # it did not train
    assert len(earlier) < len(moments)
    safetensors.write(checkpoint / "optimizer.safetensors", earlier)
    state["files"]["optimizer.safetensors"] = (checkpoint / "optimizer.safetensors").stat().st_size
    del state["checksums"], state["checksum"]  # an earlier version had none
    (checkpoint / "state.json").write_text(json.dumps(state))
    again = dict(max_train_steps=2, resume_from_checkpoint="checkpoint-1")
    with pytest.raises(BadInput, match="the loss: 'of the latents' then, 'of the latents and the embedding' now"):
        train(run(unidiffuser_twin, pictures, tmp_path / "out", **again))
    train(run(unidiffuser_twin, pictures, tmp_path / "out", **again, allow_changes=True))
    assert "resuming with a change: the loss" in capsys.readouterr().err
