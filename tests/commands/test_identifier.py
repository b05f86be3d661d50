"""python -m dreambooth.identifier."""

import re
import shutil

import pytest
from support.commands import ROOT, python
from support.twins import BUILDERS

from dreambooth import identifier
from dreambooth.system.errors import BadInput

MODEL = str(ROOT / "miniworld/model")


def listed(capsys, *arguments):
    identifier.main(["--model", MODEL, *arguments])
    return capsys.readouterr().out.splitlines()


def test_the_command_lists_words_and_their_tokens():
    done = python("-m", "dreambooth.identifier", "--model", MODEL, "--count", "5")
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and len(lines) == 5
    assert all(len(line.split("\ttoken ")) == 2 for line in lines)
    assert last.startswith("5 of ")


def test_another_seed_draws_others_and_the_same_one_the_same(capsys):
    assert listed(capsys, "--seed", "0") == listed(capsys, "--seed", "0") != listed(capsys, "--seed", "1")


def test_all_holds_what_is_drawn(capsys):
    everything = listed(capsys, "--all")
    assert set(listed(capsys)[:-1]) <= set(everything) and any(line.startswith("sks\t") for line in everything)


def test_a_prompt_is_looked_at(capsys):
    first, second = listed(capsys, "--check", "a photo of sks dog")
    assert re.fullmatch(r"identifier: sks \(token \d+, rare\); class: dog", first)
    assert second == "nothing is wrong with it"
    with pytest.raises(SystemExit) as ended:
        listed(capsys, "--check", "a photo of a red dog")
    assert ended.value.code == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "identifier: none; other words: red dog" and "has no identifier" in second
    assert python("-m", "dreambooth.identifier", "--model", MODEL, "--check", "a dog").returncode == 1


def test_a_checkpoint_has_the_tokenizer_of_its_base(flags, tmp_path, capsys):
    from support.commands import train

    train(flags(max_train_steps=1, save_steps=1))
    capsys.readouterr()
    identifier.main(["--model", str(tmp_path / "out/checkpoint-1"), "--check", "a photo of sks dog"])
    assert "identifier: sks" in capsys.readouterr().out


@pytest.mark.parametrize("pipeline", [*BUILDERS, "bert"])
def test_other_models(pipeline, bert_twin, tmp_path, capsys):
    model = bert_twin if pipeline == "bert" else BUILDERS[pipeline](tmp_path / "twin")
    prompt = "一张sk狗的照片" if pipeline == "bert" else "a photo of sk dog"
    with pytest.raises(SystemExit):
        identifier.main(["--model", str(model), "--check", prompt])
    assert '"sk" is not one: the tokenizer splits it into s + k' in capsys.readouterr().out


@pytest.mark.parametrize("pipeline", ["StableDiffusionXLPipeline", "StableDiffusion3Pipeline"])
def test_a_word_is_rare_in_both_tokenizers(pipeline, tmp_path, capsys):
    """The first one has sks as a token, the second one spells it."""
    model = BUILDERS[pipeline](tmp_path / "twin")
    identifier.main(["--model", str(model), "--check", "a photo of sks dog"])
    assert "identifier: sks (token" in capsys.readouterr().out
    (model / "tokenizer_2/merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(SystemExit):
        identifier.main(["--model", str(model), "--check", "a photo of sks dog"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "identifier: none; other words: sks dog"
    assert '"sks" is not one: the second tokenizer splits it into s + k + s, which have a meaning' in second
    with pytest.raises(BadInput, match="its tokenizers have no rare word of up to three letters"):
        identifier.main(["--model", str(model), "--all"])


def test_a_base_with_another_tokenizer_has_its_words(flags, twin, tmp_path, capsys):
    from support.commands import train

    other = shutil.copytree(twin / "tokenizer", tmp_path / "spells")
    (other / "merges.txt").write_text("#version: 0.2\n")
    train(flags(max_train_steps=1, save_steps=1, lora_rank=2, tokenizer_name=other))
    assert "the tokenizer splits it into s + k + s" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        identifier.main(["--model", str(tmp_path / "out/checkpoint-1"), "--check", "a photo of sks dog"])
    assert "identifier: none" in capsys.readouterr().out


def test_a_tokenizer_that_is_gone_is_one_line(flags, twin, tmp_path, capsys):
    from support.commands import train

    other = shutil.copytree(twin / "tokenizer", tmp_path / "other")
    train(flags(max_train_steps=1, save_steps=1, lora_rank=2, tokenizer_name=other))
    shutil.rmtree(other)
    with pytest.raises(BadInput, match="--model .*: it can't be loaded"):
        identifier.main(["--model", str(tmp_path / "out/checkpoint-1")])


def test_a_learned_word_is_one_of_the_model(flags, tmp_path, capsys):
    from support.commands import train

    train(flags(max_train_steps=1, save_steps=1, learn_identifier="alone", instance_prompt="a photo of <sks> dog"))
    for folder in (tmp_path / "out/checkpoint-1", tmp_path / "out"):
        capsys.readouterr()
        identifier.main(["--model", str(folder), "--check", "a photo of <sks> dog"])
        assert "identifier: <sks> (token" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--seed", "-1"], ["--model", "./nowhere"]])
def test_bad_input_is_refused(wrong):
    with pytest.raises(BadInput, match=wrong[0]):
        identifier.main(["--model", MODEL, *wrong])
