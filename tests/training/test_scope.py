"""The layers that train: those that are chosen move, and no others."""

import numpy as np
import pytest
from support.commands import command_line, train
from support.weights import assert_same, weights

from dreambooth.models import registry
from dreambooth.system.errors import BadInput

LAYERS = {
    "key_value": lambda name: "attn2.to_k" in name or "attn2.to_v" in name,
    "time": lambda name: "time_emb" in name,
    r"^mid_block": lambda name: name.startswith("mid_block"),
}


@pytest.mark.parametrize("layers", LAYERS)
def test_the_chosen_layers_move_and_no_others(layers, twin, pictures, tmp_path, capsys):
    train(command_line(twin, pictures, tmp_path / "out", trained_layers=[layers], learning_rate=1e-2))
    before, after = weights(twin / "unet"), weights(tmp_path / "out/unet")
    moved = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    expected = {name for name in after if LAYERS[layers](name)}
    assert moved and moved <= expected
    assert {name.rpartition(".")[0] for name in moved} == {name.rpartition(".")[0] for name in expected}
    count = sum(after[name].size for name in expected)
    said = capsys.readouterr().out
    assert f"learning  unet: {count / 1e6:.1f} million parameters" in said, said
    assert (
        f"{layers} of the UNet".replace("_", "\\_") in (card := (tmp_path / "out/README.md").read_text())
        or layers in card
    )


def test_a_resumed_run_ends_as_one_that_was_not_stopped(twin, pictures, tmp_path):
    settings = dict(trained_layers=["key_value"], save_steps=1, ema_decay=0.5)
    train(command_line(twin, pictures, tmp_path / "whole", **settings, max_train_steps=3))
    train(command_line(twin, pictures, tmp_path / "parts", **settings, max_train_steps=1))
    again = dict(max_train_steps=3, resume_from_checkpoint="latest")
    train(command_line(twin, pictures, tmp_path / "parts", **settings, **again))
    assert_same(tmp_path / "whole/unet", tmp_path / "parts/unet")


def test_all_is_the_default(twin, pictures, tmp_path):
    for name, layers in (("plain", None), ("all", ["all"])):
        train(command_line(twin, pictures, tmp_path / name, trained_layers=layers))
    assert_same(tmp_path / "plain/unet", tmp_path / "all/unet")


@pytest.mark.parametrize("then, now", [(["time"], ["key_value"]), (["time"], None)])
def test_other_layers_are_a_change_that_can_be_allowed(then, now, twin, pictures, tmp_path, capsys):
    settings = dict(optimizer="prodigy", learning_rate=1, ema_decay=0.5, save_steps=1)
    train(command_line(twin, pictures, tmp_path / "out", **settings, trained_layers=then, max_train_steps=1))
    again = dict(settings, trained_layers=now, max_train_steps=2, resume_from_checkpoint="latest")
    with pytest.raises(BadInput, match=r"trained_layers: \['time'\] then"):
        train(command_line(twin, pictures, tmp_path / "out", **again))
    train(command_line(twin, pictures, tmp_path / "out", **again, allow_changes=True))
    assert "the checkpoint's layers are others, so its state begins anew" in capsys.readouterr().err


def test_a_choice_without_layers_is_refused(twin, pictures, tmp_path):
    with pytest.raises(BadInput, match="--trained_layers atention: the unet has no such layers"):
        train(command_line(twin, pictures, tmp_path / "out", trained_layers=["atention"]))
    settings = dict(trained_layers=["key_value"], train_text_encoder=True)
    with pytest.raises(BadInput, match="--trained_layers key_value: the text_encoder has no such layers"):
        train(command_line(twin, pictures, tmp_path / "out", **settings))


def test_custom_diffusions_layers_are_those_of_the_prompt():
    names = ["a.attn1.to_k", "a.attn2.to_k", "a.attn2.to_v", "a.attn2.to_q", "a.attn2.to_out.0"]
    assert list(registry.choose_layers(names, ["key_value"])) == ["a.attn2.to_k", "a.attn2.to_v"]
