"""Learned words: what trains, that it is saved so that the libraries read it, and that a resumed run is the same."""

import json
import warnings
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file
from support.commands import command_line, launch, train, train_whole_and_in_parts
from support.families import load_family
from support.slowly import mostly_slow
from support.weights import assert_same, weights

import infer
from dreambooth import export
from dreambooth.models import loading
from dreambooth.system.errors import BadInput
from dreambooth.training import words

PROMPT = "a photo of <sks> dog"
ALONE = dict(instance_prompt=PROMPT, learn_identifier="alone", learning_rate=1e-2)
JOINTLY = dict(instance_prompt=PROMPT, learn_identifier="jointly", identifier_lr=1e-2)
PRIOR = dict(prior_by_prediction=True, class_prompt="a photo of a dog")
METHODS = {
    "alone": dict(ALONE, ema_decay=0.5),
    "whole": dict(JOINTLY, **PRIOR),
    "key_value": dict(JOINTLY, trained_layers=["key_value"]),
    "text encoder": dict(JOINTLY, train_text_encoder=True, save_format="safetensors"),
    "LoRA": dict(JOINTLY, **PRIOR, lora_rank=2, train_text_encoder=True, lora_dropout=0.2),
}


def vector(folder):
    [(word, found)] = load_file(Path(folder) / "learned_embeds.safetensors").items()
    assert word == "<sks>" and found.ndim == 2
    return found[0]


def start(twin, text="dog"):
    """The vector that a word begins with."""
    family = load_family(twin)
    tokenizer, table = family.tokenizers[0], family.pipeline.text_encoder.get_input_embeddings().weight.numpy()
    return table[tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))].mean(0)


@pytest.mark.parametrize("method", mostly_slow(METHODS, quick=2))
def test_a_resumed_run_ends_as_one_that_was_not_stopped(method, twin, pictures, tmp_path):
    train_whole_and_in_parts(twin, pictures, tmp_path, **METHODS[method])
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors")}
    assert Path("learned_embeds.safetensors") in files
    for file in files:
        one, other = (load_file(tmp_path / name / file) for name in ("whole", "parts"))
        assert all(np.array_equal(one[name], other[name]) for name in one), file
    assert not np.array_equal(vector(tmp_path / "whole"), start(twin))


@pytest.mark.parametrize("method", ["alone", "whole"])
def test_two_processes_learn_what_one_does(method, twin, pictures, tmp_path):
    settings = METHODS[method]
    train(command_line(twin, pictures, tmp_path / "one", **settings, train_batch_size=2))
    done = launch(tmp_path, "train_dreambooth.py", *command_line(twin, pictures, tmp_path / "two", **settings))
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = vector(tmp_path / "one"), vector(tmp_path / "two")
    assert np.abs(one - two).mean() < 0.02 * np.abs(one - start(twin)).mean()


def test_alone_nothing_but_the_word_is_written_and_its_size_is_that_of_a_word(twin, pictures, tmp_path, capsys):
    before = {part: weights(twin / part) for part in ("unet", "text_encoder")}
    train(command_line(twin, pictures, tmp_path / "out", **ALONE))
    names = {each.name for each in (tmp_path / "out").iterdir()}
    of_the_report = {"progress.jsonl", "report.html"}
    assert names == {"README.md", "learned_embeds.safetensors", "logs", "training_args.json", *of_the_report}
    width = len(vector(tmp_path / "out"))
    said = capsys.readouterr().out
    assert f"learning  the new words: {width} parameters\n" in said and "word      " in said
    assert all(
        np.array_equal(before[part][name], each) for part in before for name, each in weights(twin / part).items()
    )
    card = (tmp_path / "out/README.md").read_text()
    assert 'pipeline.load_textual_inversion("' in card and "the new words &lt;sks&gt;" in card


def drawn(folder, out, *more):
    infer.main(["--model_path", str(folder), "--prompt", PROMPT, "--output", str(out), *map(str, more),
                "--num_inference_steps", "3", "--height", "32", "--width", "32"])  # fmt: skip
    return np.asarray(Image.open(out)).astype(int)


def test_every_form_of_a_result_draws_the_same(twin, pictures, tmp_path):
    settings = dict(JOINTLY, lora_rank=2, lora_merge=True, save_steps=1, train_text_encoder=True, learning_rate=1e-2)
    train(command_line(twin, pictures, tmp_path / "merged", **settings))
    train(command_line(twin, pictures, tmp_path / "lora", **{**settings, "lora_merge": None}))
    folders = [tmp_path / "merged", tmp_path / "lora", tmp_path / "lora/checkpoint-2"]
    one, *others = [drawn(folder, tmp_path / f"{number}.png") for number, folder in enumerate(folders)]
    others.append(drawn(twin, tmp_path / "base.png", "--lora", tmp_path / "lora"))
    assert all(np.abs(one - other).max() <= 2 for other in others)
    train(command_line(twin, pictures, tmp_path / "alone", **ALONE, save_steps=1, ema_decay=0.5))
    of_word = [drawn(tmp_path / name, tmp_path / "a.png") for name in ("alone", "alone/checkpoint-2")]
    assert np.array_equal(*of_word) and not np.array_equal(of_word[0], one)


def test_the_librarys_own_loading_gives_the_word_its_vector(twin, pictures, tmp_path):
    from ppdiffusers import StableDiffusionPipeline

    train(command_line(twin, pictures, tmp_path / "alone", **ALONE))
    train(command_line(twin, pictures, tmp_path / "whole", **JOINTLY))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = StableDiffusionPipeline.from_pretrained(str(twin), paddle_dtype="float32")
        base.load_textual_inversion(str(tmp_path / "alone"))
        whole = StableDiffusionPipeline.from_pretrained(str(tmp_path / "whole"), paddle_dtype="float32")
    for pipeline, folder in ((base, "alone"), (whole, "whole")):
        token = pipeline.tokenizer.convert_tokens_to_ids("<sks>")
        assert token in pipeline.tokenizer(PROMPT)["input_ids"]
        row = pipeline.text_encoder.get_input_embeddings().weight.numpy()[token]
        assert np.array_equal(row, vector(tmp_path / folder))


def test_the_gradient_of_a_word_is_that_of_its_row(twin):
    """Against Paddle's own gradient of the table, where its row is the word."""
    family = load_family(twin)
    tokenizer, text_encoder = family.tokenizers[0], family.pipeline.text_encoder
    learned = words.Words([(tokenizer, text_encoder)], {"<sks>": start(twin)}, is_alone=False)
    table = text_encoder.get_input_embeddings().weight
    table.stop_gradient = False
    family.encode_prompts([PROMPT, "a <sks> photo of a dog"])["hidden"].square().sum().backward()
    [own] = [each.grad.numpy() for each in learned.parameters()]
    token = tokenizer.convert_tokens_to_ids("<sks>")
    assert not table.grad.numpy()[token].any()  # all of it is the word's
    text_encoder.clear_gradients()
    other = load_family(twin)
    readers = [(other.tokenizers[0], other.pipeline.text_encoder)]
    words.tokenizers.add_words(readers, {"<sks>": start(twin)}, "--test")
    rows = other.pipeline.text_encoder.get_input_embeddings().weight
    rows.stop_gradient = False
    other.encode_prompts([PROMPT, "a <sks> photo of a dog"])["hidden"].square().sum().backward()
    assert np.allclose(own, rows.grad.numpy()[token], rtol=1e-4, atol=1e-5)


def test_a_text_encoder_that_is_loaded_again_gets_the_words(twin, tmp_path):
    """As at the end of a run in half precision, whose LoRA is merged."""
    family = load_family(twin)
    readers = words.tokenizers.readers(family.pipeline, family.facts)
    learned = words.Words(readers, {"<sks>": start(twin)}, is_alone=False)
    next(iter(learned.parameters())).set_value(start(twin) + 1)
    family.pipeline.text_encoder = None
    family = family.whole()
    assert len(family.pipeline.text_encoder.get_input_embeddings().weight) < len(family.tokenizers[0])
    loading.put_words(family, learned.vectors())
    family.save(tmp_path / "out", "safetensors")
    again = load_family(tmp_path / "out")
    token = again.tokenizers[0].convert_tokens_to_ids("<sks>")
    row = again.pipeline.text_encoder.get_input_embeddings().weight.numpy()[token]
    assert np.array_equal(row, start(twin) + 1) and token in again.tokenizers[0](PROMPT)["input_ids"]


@pytest.mark.parametrize("text", ["bert_twin", "unidiffuser_twin"])
def test_other_models_learn_words_too(text, pictures, tmp_path, request):
    model = request.getfixturevalue(text)
    settings = dict(ALONE, initializer_token="狗" if text == "bert_twin" else "dog")
    if text == "bert_twin":
        settings["instance_prompt"] = "一张<sks>狗的照片"
    train(command_line(model, pictures, tmp_path / "out", **settings))
    assert not np.array_equal(vector(tmp_path / "out"), start(model, settings["initializer_token"]))
    family = load_family(tmp_path / "out")
    token = family.tokenizers[0].convert_tokens_to_ids("<sks>")
    assert token in family.tokenizers[0](settings["instance_prompt"])["input_ids"]
    family.save(tmp_path / "saved", "safetensors")
    again = load_family(tmp_path / "saved")
    prompts = [settings["instance_prompt"]]
    one, other = (each.encode_prompts(prompts)["hidden"].numpy() for each in (family, again))
    assert np.abs(one - other).max() < 1e-5


def test_several_subjects_have_a_word_each(twin, pictures, class_pictures, tmp_path):
    subjects = [
        dict(instance_data_dir=str(pictures), instance_prompt="a photo of <sks> dog"),
        dict(instance_data_dir=str(class_pictures), instance_prompt="a photo of <wcm> cat"),
    ]
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(subjects))
    (tmp_path / "same.yaml").write_text(yaml.safe_dump([subjects[0], {**subjects[1], "instance_prompt": "<sks> cat"}]))
    settings = dict(concepts=tmp_path / "list.yaml", instance_prompt=None, learn_identifier="alone", train_batch_size=2)
    line = command_line(twin, pictures, tmp_path / "out", **settings)
    line = [each for each in line if each not in ("--instance_data_dir", str(pictures))]
    with pytest.raises(BadInput, match="two subjects of --concepts have one new word"):
        train([each.replace("list.yaml", "same.yaml") for each in line])
    train(line)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == ["learned_embeds-sks.safetensors", "learned_embeds-wcm.safetensors"]
    family = load_family(tmp_path / "out")
    assert all(len(family.tokenizers[0].tokenize(word)) == 1 for word in ("<sks>", "<wcm>"))
    # a later run with one word leaves no file of the other
    train(command_line(twin, pictures, tmp_path / "out", **ALONE, overwrite=True))
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["learned_embeds.safetensors"]


@pytest.mark.parametrize(
    "changes, start_of",
    [
        (dict(), "dog"),
        (dict(initializer_token="cat"), "cat"),
        (dict(instance_prompt="<sks>", class_prompt="a photo of a cat"), "cat"),
        (dict(instance_prompt="a <sks> golden retriever in snow"), "golden retriever"),
    ],
)
def test_the_word_begins_as_its_class(changes, start_of, twin, pictures, tmp_path):
    settings = {**ALONE, **changes, "learning_rate": 1e-9}
    train(command_line(twin, pictures, tmp_path / "out", **settings))
    assert np.abs(vector(tmp_path / "out") - start(twin, start_of)).max() < 1e-6


@pytest.mark.parametrize(
    "prompt, more, message",
    [
        ("a photo of <sks>", {}, 'names no class; give --initializer_token, the word that <sks> is to begin as'),
        ("a photo of sks dog", {}, '"a photo of sks dog" has no new word; write one in small letters, as <sks>'),
        ("a photo of <SKS> dog", {}, "has no new word; write one in small letters"),
        ("a <sks> <wcm> dog", {}, "has several new words"),
        (PROMPT, dict(class_prompt="a <sks> dog"), "the new word names the subject; leave it out"),
        (PROMPT, dict(lora_rank=2), "so --lora_rank does nothing; leave it out"),
        (PROMPT, dict(train_text_encoder=True), "so --train_text_encoder does nothing"),
    ],
)  # fmt: skip
def test_what_can_not_be_learned_is_refused(prompt, more, message, twin, pictures, tmp_path):
    with pytest.raises(BadInput, match=message):
        train(command_line(twin, pictures, tmp_path / "out", **{**ALONE, "instance_prompt": prompt, **more}))
    assert not (tmp_path / "out").exists()


def test_flags_of_a_word_need_one(twin, pictures, tmp_path):
    for flag in (dict(identifier_lr=1e-3), dict(initializer_token="dog")):
        [name] = flag
        with pytest.raises(BadInput, match=f"--{name} needs --learn_identifier"):
            train(command_line(twin, pictures, tmp_path / "out", **flag))


def test_a_word_that_the_model_has_is_refused_and_one_of_another_model_too(twin, pictures, tmp_path):
    train(command_line(twin, pictures, tmp_path / "whole", **JOINTLY))
    with pytest.raises(BadInput, match="the model has <sks> already; write another name"):
        train(command_line(tmp_path / "whole", pictures, tmp_path / "out", **ALONE))
    train(command_line(twin, pictures, tmp_path / "alone", **ALONE))
    record = json.loads((tmp_path / "alone/training_args.json").read_text())
    from safetensors.numpy import save_file

    save_file({"<sks>": np.ones((1, 3), np.float32)}, tmp_path / "alone/learned_embeds.safetensors")
    with pytest.raises(BadInput, match="<sks> is a word of another model; it has 3 numbers"):
        load_family(tmp_path / "alone")
    assert record["flags"]["learn_identifier"] == "alone"


def test_one_file_for_web_uis_has_the_table_of_the_base(twin, pictures, tmp_path, capsys):
    train(command_line(twin, pictures, tmp_path / "whole", **JOINTLY))
    for model, name in ((twin, "base"), (tmp_path / "whole", "own")):
        line = [
            "--model_path",
            str(model),
            "--format",
            "single_file",
            "--output",
            str(tmp_path / f"{name}.safetensors"),
        ]
        export.main(line)
    assert "no place for <sks>; web UIs load words from learned_embeds.safetensors" in capsys.readouterr().err
    shapes = [
        {name: each.shape for name, each in load_file(tmp_path / f"{name}.safetensors").items()}
        for name in ("base", "own")
    ]
    assert shapes[0] == shapes[1]


def test_the_identifier_of_a_prompt_is_its_new_word(twin, pictures, tmp_path, capsys):
    train(command_line(twin, pictures, tmp_path / "out", **ALONE, dry_run=True))
    assert "identifier" not in capsys.readouterr().err  # of which there would be a warning


def test_a_networks_folder_in_a_checkpoint_loads_by_itself(twin, pictures, tmp_path):
    from ppdiffusers.transformers import CLIPTextModel

    train(command_line(twin, pictures, tmp_path / "out", **METHODS["text encoder"], save_steps=1))
    found = CLIPTextModel.from_pretrained(str(tmp_path / "out/checkpoint-2/text_encoder"))
    assert found.config.vocab_size == len(found.get_input_embeddings().weight)
    assert isinstance(found.parameters()[0], paddle.Tensor)
    assert_same(tmp_path / "out/checkpoint-2/unet", tmp_path / "out/unet")
