"""The Stable Diffusion 3 family: encodings and latents against the library's own pipeline, with T5 and without."""

import json
import shutil

import numpy as np
import paddle
import pytest
from PIL import Image
from support.commands import command_line, train
from support.families import load_family
from support.twins import build_sd3
from support.weights import weights

import infer
from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.files import records
from dreambooth.models import loading, pipeline_folder
from dreambooth.system.errors import BadInput
from dreambooth.training.objective import diffusion

PROMPTS = ["a photo of sks dog", "a dog in snow"]


@pytest.fixture(scope="module")
def without_t5(tmp_path_factory):
    return build_sd3(tmp_path_factory.mktemp("sd3") / "small", t5=False)


@pytest.fixture(params=["sd3_twin", "without_t5"])
def family(request):
    return load_family(request.getfixturevalue(request.param))


def test_prompts_are_encoded_as_the_pipeline_does_with_as_many_tokens(family, monkeypatch):
    encoded = family.encode_prompts(PROMPTS)
    hidden, _, pooled, _ = family.pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    tokens = family.pipeline.tokenizer_max_length
    np.testing.assert_array_equal(encoded["pooled"].numpy(), pooled.numpy())
    np.testing.assert_array_equal(encoded["hidden"].numpy()[:, :tokens], hidden.numpy()[:, :tokens])
    assert encoded["hidden"].shape == [2, tokens + 256, 80]
    of_t5 = encoded["hidden"].numpy()[:, tokens:]
    if family.pipeline.text_encoder_3 is None:
        assert not of_t5.any() and not hidden.numpy()[:, tokens:].any()
        return
    ids = family.pipeline.tokenizer_3(PROMPTS, padding="max_length", max_length=256, return_tensors="pd").input_ids
    np.testing.assert_array_equal(of_t5, family.pipeline.text_encoder_3(ids)[0].numpy())


def test_a_long_prompt_is_cut(family):
    """The pipeline's own encoding fails on it."""
    [long] = sampling.draw(family, DrawSettings(3, "picture", (32, 32), 1), [("a dog " * 400, 0)])
    assert long.size == (32, 32)


def test_latents_have_the_shift_and_the_scale_of_the_vae(family):
    pixels = paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype("float32"))
    encoding = family.encode_pictures(pixels)
    clean = family.latents(encoding, paddle.zeros_like(encoding["mean"]))
    settings = family.pipeline.vae.config
    wanted = (encoding["mean"] - settings.shift_factor) * settings.scaling_factor
    np.testing.assert_allclose(clean.numpy(), wanted.numpy(), atol=1e-6)
    assert settings.shift_factor == 0.0609


def test_a_model_without_t5_has_no_such_part_and_is_saved_so(without_t5, tmp_path):
    family = load_family(without_t5)
    assert "text_encoder_3" not in family.facts.parts and "text_encoder_3" not in family.networks()
    assert "text_encoder_3" in type(family).facts.parts
    before = family.pipeline
    assert family.whole().pipeline is not before and family.whole().pipeline.vae is before.vae
    for form in ("safetensors", "diffusers", "pdparams"):
        family.save(tmp_path / form, form)
        again = load_family(tmp_path / form)
        assert again.pipeline.text_encoder_3 is None
        for prompt in PROMPTS:
            one, other = (each.encode_prompts([prompt])["hidden"].numpy() for each in (family, again))
            assert np.abs(one - other).max() < 1e-6


def test_the_layers_that_torch_lacks_stay_zero_and_are_not_written_for_it(sd3_twin, tmp_path):
    family = load_family(sd3_twin)
    family.prepare_training(gradient_checkpointing=False)
    names = ["norm_out.norm.bias", "transformer_blocks.2.norm1_context.norm.bias"]
    state = dict(family.denoiser.named_parameters())
    assert all(state[name].stop_gradient and not state[name].numpy().any() for name in names)
    family.save(tmp_path / "out", "diffusers")
    written = weights(tmp_path / "out/transformer")
    assert not set(names) & set(written)
    again = load_family(tmp_path / "out")
    for name, each in dict(again.denoiser.named_parameters()).items():
        assert np.array_equal(each.numpy(), state[name].numpy()), name


@pytest.mark.parametrize("setting", [{"qk_norm": "rms_norm"}, {"dual_attention_layers": [0, 1]}])
def test_stable_diffusion_3_5_is_refused(sd3_twin, tmp_path, setting):
    """The library loads it, and draws other pictures."""
    shutil.copytree(sd3_twin, tmp_path / "copy")
    path = tmp_path / "copy/transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **setting}))
    [name] = setting
    with pytest.raises(BadInput, match=rf"transformer/config.json can't be used \({name} is .*Stable Diffusion 3.5"):
        pipeline_folder.check(str(tmp_path / "copy"))
    path.write_text(json.dumps({**json.loads(path.read_text()), name: None}))
    pipeline_folder.check(str(tmp_path / "copy"))


def test_t5_can_be_left_out(sd3_twin, without_t5):
    """It is then as a model that comes without it."""
    family = loading.load_family(loading.Source(str(sd3_twin), without_t5=True))
    assert family.pipeline.text_encoder_3 is family.pipeline.tokenizer_3 is None
    assert "text_encoder_3" not in family.facts.parts and family.whole().pipeline.text_encoder_3 is None
    encoded = family.encode_prompts(PROMPTS)["hidden"].numpy()
    assert encoded.shape[1] == load_family(sd3_twin).encode_prompts(PROMPTS)["hidden"].shape[1]
    assert not encoded[:, -256:].any() and encoded[:, :-256].any()
    again = loading.load_family(loading.Source(str(without_t5), without_t5=True))
    assert "text_encoder_3" not in again.facts.parts


def test_a_model_that_has_no_t5_is_refused(twin):
    with pytest.raises(BadInput, match=f"--without_t5: {twin} is a model of StableDiffusionPipeline, which has no T5"):
        loading.load_family(loading.Source(str(twin), without_t5=True))


def test_a_run_without_t5_is_saved_and_resumed_and_drawn_without_it(sd3_twin, pictures, tmp_path):
    settings = dict(without_t5=True, lora_rank=2, max_train_steps=2, save_steps=1)
    train(command_line(sd3_twin, pictures, tmp_path / "lora", **settings))
    for name in ("lora", "lora/checkpoint-1"):
        assert records.find_base(tmp_path / name).without_t5
        assert load_family(tmp_path / name).pipeline.text_encoder_3 is None
    file = tmp_path / "dog.png"
    line = [f"--model_path={sd3_twin}", "--prompt=sks dog", "--num_inference_steps=1", f"--output={file}"]
    infer.main([*line, f"--lora={tmp_path / 'lora'}"])
    assert Image.open(file).text["without_t5"] == "True"
    train(command_line(sd3_twin, pictures, tmp_path / "whole", without_t5=True, max_train_steps=1, save_steps=1))
    assert json.loads((tmp_path / "whole/model_index.json").read_text())["text_encoder_3"] == [None, None]
    assert not (tmp_path / "whole/text_encoder_3").exists()
    with pytest.raises(BadInput, match="without_t5"):
        train(command_line(sd3_twin, pictures, tmp_path / "whole", max_train_steps=3, resume_from_checkpoint="latest"))


def test_drawing_ends_where_the_flow_begins(sd3_twin, monkeypatch):
    """Of a denoiser that knows the way, one step of drawing gives the latents that it leads to."""
    family = load_family(sd3_twin)
    flow = diffusion.diffusion_for(family.pipeline.scheduler)
    clean = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 16, 16, 16)).astype("float32"))
    noise = family.first_latents(3, "picture", [(0,)], (32, 32))["latents"]
    way = flow.target(clean, noise, None)
    monkeypatch.setattr(type(family.denoiser), "forward", lambda self, hidden_states, **more: (way,))
    for steps in (1, 4):
        drawn = family.pipeline(
            **family.prompt_arguments(PROMPTS[:1], None, guided=False), latents=noise, height=32, width=32,
            num_inference_steps=steps, guidance_scale=1.0, output_type="latent",
        ).images  # fmt: skip
        np.testing.assert_allclose(drawn.numpy(), clean.numpy(), atol=1e-5)
    seen = flow.add_noise(clean, noise, flow.last(1))
    np.testing.assert_allclose(seen.numpy(), noise.numpy(), atol=1e-6)
    for t in (1.0, 500.0, 900.0):
        t = paddle.to_tensor([t])
        np.testing.assert_allclose(
            flow.clean(flow.add_noise(clean, noise, t), way, t).numpy(), clean.numpy(), atol=1e-5
        )
