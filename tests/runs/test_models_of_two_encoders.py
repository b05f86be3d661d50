"""Whole runs on twins of Stable Diffusion XL and 3: what results, that runs are exact, and what other tools get."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.commands import command_line, train, train_in_one_and_two_processes, train_whole_and_in_parts
from support.families import load_family
from support.pictures import draw_pictures, write_left_masks
from support.slowly import mostly_slow
from support.weights import assert_same, mean_difference, weights

import infer
from dreambooth import export
from dreambooth.system.errors import BadInput

PIPELINES = {"unet": "StableDiffusionXL", "transformer": "StableDiffusion3"}
TEXTS = ("text_encoder", "text_encoder_2")
PRIOR = dict(with_prior_preservation=True, class_prompt="a photo of a dog", num_class_images=2)
LORA = dict(lora_rank=4, lora_targets=["all"], learning_rate=1e-2)


@pytest.fixture(params=["xl_twin", "sd3_twin"])
def model(request):
    return request.getfixturevalue(request.param)


def denoiser(model):
    return "transformer" if (model / "transformer").is_dir() else "unet"


def parts_of(model):
    return denoiser(model), *TEXTS


def drawn(folder, out, *more):
    infer.main(["--model_path", str(folder), "--prompt", "a photo of sks dog", "--output", str(out), *map(str, more),
                "--num_inference_steps", "4", "--height", "32", "--width", "32"])  # fmt: skip
    return np.asarray(Image.open(out)).astype(int)


def test_the_whole_road(model, pictures, tmp_path, capsys):
    settings = dict(
        **PRIOR, class_data_dir=tmp_path / "class", train_text_encoder=True, validation_prompt=["a sks dog"]
    )
    train(command_line(model, pictures, tmp_path / "out", **settings))
    said = capsys.readouterr().out
    assert f"(a local folder, {PIPELINES[denoiser(model)]})" in said
    assert len([*(tmp_path / "class").rglob("*.png")]) == 2
    for part in parts_of(model):
        before, after = weights(model / part), weights(tmp_path / "out" / part)
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed
    last = "text_model.encoder.layers.1."  # of XL alone the last layer is not read
    after = weights(tmp_path / "out/text_encoder")
    assert (denoiser(model) == "unet") == all(
        np.array_equal(after[name], each)
        for name, each in weights(model / "text_encoder").items()
        if name.startswith(last)
    )
    import ppdiffusers

    pipeline = getattr(ppdiffusers, f"{PIPELINES[denoiser(model)]}Pipeline").from_pretrained(str(tmp_path / "out"))
    image = pipeline("a photo of sks dog", num_inference_steps=2, height=32, width=32).images[0]
    assert image.size == (32, 32)
    assert np.abs(drawn(tmp_path / "out", tmp_path / "1.png") - drawn(model, tmp_path / "2.png")).max() > 2


METHODS = {
    "whole": dict(
        **PRIOR, train_text_encoder=True, resize_mode="buckets", random_flip=True, caption_dropout=0.5, mask_dir="masks"
    ),
    "LoRA": dict(**LORA, lora_dropout=0.3, train_text_encoder=True, resize_mode="crop", random_crop=True),
    "word": dict(learn_identifier="alone", instance_prompt="a photo of <sks> dog"),
    "word and LoRA": dict(
        **LORA, learn_identifier="jointly", identifier_lr=1e-2, instance_prompt="a photo of <sks> dog", ema_decay=0.5
    ),
    "by prediction": dict(**LORA, prior_by_prediction=True, class_prompt="a dog", timestep_shift=2, ema_decay=0.9),
}


@pytest.fixture
def settings_of(pictures, class_pictures, tmp_path):
    """A function: the settings of a method, with the folders of class pictures and of masks."""
    folders = {"class_data_dir": class_pictures, "mask_dir": write_left_masks(pictures, tmp_path / "masks")}

    def with_folders(method):
        needed = {"mask_dir": "mask_dir", "with_prior_preservation": "class_data_dir"}
        return METHODS[method] | {flag: folders[flag] for name, flag in needed.items() if name in METHODS[method]}

    return with_folders


@pytest.mark.parametrize("method", mostly_slow(METHODS, quick=2))
def test_a_resumed_run_ends_as_one_that_was_not_stopped(method, model, settings_of, pictures, tmp_path):
    settings = settings_of(method)
    train_whole_and_in_parts(model, pictures, tmp_path, **settings)
    if "word" in method:
        files = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
        assert files == [
            "learned_embeds.safetensors",
            *(["paddle_lora_weights.safetensors"] if "LoRA" in method else []),
        ]
        for file in files:
            one, other = (load_file(tmp_path / name / file) for name in ("whole", "parts"))
            assert all(np.array_equal(one[name], other[name]) for name in one), file
        return
    for part in parts_of(model) if method == "whole" else ("",):
        assert_same(tmp_path / "whole" / part, tmp_path / "parts" / part)


@pytest.mark.parametrize("method", mostly_slow(["LoRA", "whole"]))
def test_two_processes_learn_what_one_does(method, model, settings_of, pictures, tmp_path):
    settings = settings_of(method)
    train_in_one_and_two_processes(model, pictures, tmp_path, **settings)
    for part in parts_of(model) if method == "whole" else ("",):
        same, other = (mean_difference(tmp_path / "one" / part, tmp_path / name / part) for name in ("two", "other"))
        assert same < 2e-2 * other


def test_gradient_checkpointing_changes_nothing(model, pictures, tmp_path):
    settings = dict(train_text_encoder=True)
    train(command_line(model, pictures, tmp_path / "one", **settings))
    train(command_line(model, pictures, tmp_path / "other", **settings, gradient_checkpointing=True))
    for part in parts_of(model):
        assert_same(tmp_path / "one" / part, tmp_path / "other" / part)


def test_the_cut_of_a_picture_is_learned_with_it(xl_twin, tmp_path):
    """Runs that differ in the recorded corner alone end with other weights."""
    wide = draw_pictures(tmp_path / "wide", 1, size=(96, 48))
    train(command_line(xl_twin, wide, tmp_path / "squeezed", resize_mode="squeeze"))
    train(command_line(xl_twin, wide, tmp_path / "cut", resize_mode="crop"))
    name = "add_embedding.linear_1.weight"
    before = weights(xl_twin / "unet")[name]
    changes = [weights(tmp_path / run / "unet")[name] - before for run in ("squeezed", "cut")]
    assert np.abs(changes[0] - changes[1]).max() > 1e-5


def test_the_lora_its_checkpoint_and_the_merged_pipeline_draw_the_same(model, pictures, tmp_path):
    settings = dict(LORA, lora_merge=True, save_steps=3, max_train_steps=3, train_text_encoder=True)
    train(command_line(model, pictures, tmp_path / "out", **settings))
    merged = drawn(tmp_path / "out", tmp_path / "merged.png")
    lora = tmp_path / "out/paddle_lora_weights.safetensors"
    for name, folder, more in (("lora", model, ["--lora", lora]), ("checkpoint", tmp_path / "out/checkpoint-3", [])):
        assert np.abs(drawn(folder, tmp_path / f"{name}.png", *more) - merged).max() <= 1, name
    assert np.abs(drawn(model, tmp_path / "base.png") - merged).max() > 2
    for form in ("lora_diffusers", *(["lora_web_ui"] if denoiser(model) == "unet" else [])):
        path = tmp_path / f"{form}.safetensors"
        export.main([f"--model_path={tmp_path / 'out/checkpoint-3'}", f"--format={form}", f"--output={path}"])
        assert np.abs(drawn(model, tmp_path / f"{form}.png", "--lora", path) - merged).max() <= 1, form
    if denoiser(model) == "unet":
        assert {name.split("_")[1] for name in weights_in(path)} == {"unet", "te1", "te2"}
    else:
        with pytest.raises(BadInput, match="--format lora_web_ui: web UIs load"):
            export.main(
                [
                    f"--model_path={tmp_path / 'out/checkpoint-3'}",
                    "--format=lora_web_ui",
                    f"--output={path}.safetensors",
                ]
            )


def weights_in(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return [*file.keys()]


WORD = dict(learn_identifier="jointly", identifier_lr=1e-2, instance_prompt="a photo of <sks> dog")


def test_a_word_has_a_vector_for_each_text_encoder(model, pictures, tmp_path):
    train(
        command_line(model, pictures, tmp_path / "word", **{**WORD, "learn_identifier": "alone", "identifier_lr": None})
    )
    train(command_line(model, pictures, tmp_path / "whole", **WORD))
    prompts = ["a photo of <sks> dog"]
    starts = load_family(model).pipeline
    for run in ("word", "whole"):
        family = load_family(tmp_path / run)
        vectors = load_file(tmp_path / run / "learned_embeds.safetensors")
        for name, part, tokenizer in (
            ("clip_l", "text_encoder", "tokenizer"),
            ("clip_g", "text_encoder_2", "tokenizer_2"),
        ):
            table = getattr(family.pipeline, part).get_input_embeddings().weight.numpy()
            reader = getattr(family.pipeline, tokenizer)
            token = reader.convert_tokens_to_ids("<sks>")
            assert token in reader(prompts[0])["input_ids"]
            assert np.array_equal(table[token], vectors[name][0])
            first = getattr(starts, part).get_input_embeddings().weight.numpy()
            begins = first[reader.convert_tokens_to_ids(reader.tokenize("dog"))].mean(0)
            assert 1e-4 < np.abs(table[token] - begins).max() < 0.1


def test_beside_a_new_word_the_end_of_a_prompt_is_found_by_its_mark(model, pictures, tmp_path):
    """The library takes the highest token as the end, in models whose settings do not name it: the word's."""
    import paddle

    train(command_line(model, pictures, tmp_path / "out", **WORD))
    family = load_family(tmp_path / "out")
    encoder, tokenizer = family.pipeline.text_encoder_2, family.pipeline.tokenizer_2
    ids = tokenizer(["a <sks> dog"], padding="max_length", max_length=16, return_tensors="pd").input_ids
    states = encoder.text_model(ids)[0]
    end = ids[0].numpy().tolist().index(tokenizer.eos_token_id)
    assert ids[0].numpy().argmax() < end
    wanted = paddle.matmul(states[:, end], encoder.text_projection.weight)
    pooled = family.encode_prompts(["a <sks> dog"])["pooled"][:, -wanted.shape[1] :]
    np.testing.assert_allclose(pooled.numpy(), wanted.numpy(), atol=1e-6)
    config = json.loads((tmp_path / "out/text_encoder_2/config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_token_id


def test_the_libraries_read_a_word(xl_twin, pictures, tmp_path):
    from ppdiffusers import StableDiffusionXLPipeline

    settings = {**WORD, "learn_identifier": "alone", "identifier_lr": None}
    train(command_line(xl_twin, pictures, tmp_path / "word", **settings))
    base = StableDiffusionXLPipeline.from_pretrained(str(xl_twin), add_watermarker=False)
    vectors = load_file(tmp_path / "word/learned_embeds.safetensors")
    for name, part, tokenizer in (("clip_l", "text_encoder", "tokenizer"), ("clip_g", "text_encoder_2", "tokenizer_2")):
        import paddle

        reader, encoder = getattr(base, tokenizer), getattr(base, part)
        vector = paddle.to_tensor(vectors[name])
        base.load_textual_inversion({"<sks>": vector}, token="<sks>", tokenizer=reader, text_encoder=encoder)
        token = reader.convert_tokens_to_ids("<sks>")
        assert np.array_equal(encoder.get_input_embeddings().weight.numpy()[token], vectors[name][0])


def test_one_file_has_the_tables_of_the_base(xl_twin, pictures, tmp_path, capsys):
    train(command_line(xl_twin, pictures, tmp_path / "out", **WORD))
    for folder, name in ((xl_twin, "base"), (tmp_path / "out", "own")):
        export.main([f"--model_path={folder}", "--format=single_file", f"--output={tmp_path / name}.safetensors"])
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("base", "own"))
    assert {name: each.shape for name, each in one.items()} == {name: each.shape for name, each in other.items()}
    assert "the file has no place for <sks>" in capsys.readouterr().err


def test_another_tokenizer_is_refused(model, pictures, tmp_path):
    with pytest.raises(BadInput, match="--tokenizer_name: .* has 2 tokenizers"):
        train(command_line(model, pictures, tmp_path / "out", tokenizer_name=model / "tokenizer"))


def test_the_card_says_how_to_draw(model, pictures, tmp_path):
    train(command_line(model, pictures, tmp_path / "out", train_text_encoder=True))
    card = (tmp_path / "out/README.md").read_text()
    assert f"from ppdiffusers import {PIPELINES[denoiser(model)]}Pipeline" in card
    label = "UNet" if denoiser(model) == "unet" else "transformer"
    assert f"{label} and first text encoder and second text encoder" in card
    record = json.loads((tmp_path / "out/training_args.json").read_text())
    assert record["flags"]["train_text_encoder"] is True
