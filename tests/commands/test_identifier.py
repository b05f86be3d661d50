"""python -m dreambooth.identifier."""

import pytest
from support.commands import ROOT, python

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
    assert listed(capsys, "--check", "a photo of sks dog") == ["nothing is wrong with it"]
    assert "has no rare word" in listed(capsys, "--check", "a photo of a red dog")[0]


def test_other_models(twin, bert_twin, unidiffuser_twin, capsys):
    for model in (twin, bert_twin, unidiffuser_twin):
        identifier.main(["--model", str(model), "--check", "一张sk狗的照片"])
        assert '"sk" is not one token: the tokenizer splits it into s + k' in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--seed", "-1"], ["--model", "./nowhere"]])
def test_bad_input_is_refused(wrong):
    with pytest.raises(BadInput, match=wrong[0]):
        identifier.main(["--model", MODEL, *wrong])
