"""Whole runs with a LoRA: the output, the base that stays, resuming, and several processes."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import command_line, launch, train
from support.families import load_pipeline
from support.weights import assert_same, largest_difference, mean_difference, weights

from dreambooth.models import registry
from dreambooth.system.errors import BadInput
from dreambooth.training.lora.adapters import Adapters

OF_THE_REPORT = ("progress.jsonl", "report.html")


@pytest.fixture
def line(flags):
    return lambda **changes: flags(**{"lora_rank": 2, "learning_rate": 1e-2, "max_train_steps": 3, **changes})


def test_the_output_is_a_small_file_and_no_pipeline(line, twin, tmp_path, capsys):
    train(line(train_text_encoder=True))
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {"paddle_lora_weights.safetensors", "training_args.json", "README.md", "logs", *OF_THE_REPORT}
    file = load_file(out / "paddle_lora_weights.safetensors")
    own = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.up.weight"
    assert file[own].shape == (2, 32) and np.abs(file[own]).max() > 0
    assert file["text_encoder.text_model.encoder.layers.1.self_attn.q_proj.lora_linear_layer.down.weight"].shape == (
        32,
        2,
    )
    said = capsys.readouterr().out
    assert "learning  a LoRA of rank 2 beside unet and text_encoder: 0.00" in said and "LoRA      " in said
    card = (out / "README.md").read_text()
    assert "a LoRA of rank 2 beside UNet and text encoder" in card
    assert "infer.py --model_path ./out" in card


def test_merged_it_is_a_pipeline_too_and_the_base_stays_bit_for_bit(line, twin, tmp_path):
    before = {part: weights(twin / part) for part in ("unet", "text_encoder")}
    train(line(lora_merge=True, lora_alpha=6, train_text_encoder=True))
    out = tmp_path / "out"
    for part, held in before.items():
        assert all(np.array_equal(held[name], value) for name, value in weights(twin / part).items())
        assert largest_difference(twin / part, out / part) > 0
        changed = {name for name, value in weights(out / part).items() if not np.array_equal(value, held[name])}
        assert changed and len(
            registry.choose_layers([name.removesuffix(".weight") for name in changed], ["attention"])
        ) == len(changed)
    assert_same(twin / "vae", out / "vae")
    assert load_pipeline(out) and (out / "paddle_lora_weights.safetensors").exists()


def test_its_own_networks_are_not_moved_by_training(line, twin, monkeypatch):
    seen, begin = [], Adapters.__init__
    monkeypatch.setattr(Adapters, "__init__", lambda self, *more: seen.append(more[0]) or begin(self, *more))
    train(line(adam_weight_decay=0.5))
    [networks] = seen
    for name, value in networks["unet"].state_dict().items():
        assert np.array_equal(value.numpy(), weights(twin / "unet")[name]), name


def test_a_resumed_run_ends_as_one_that_was_not_stopped(line, twin, pictures, tmp_path):
    settings = dict(lora_rank=2, learning_rate=1e-2, lora_dropout=0.3, train_text_encoder=True, save_steps=2)
    train(command_line(twin, pictures, tmp_path / "whole", **settings, max_train_steps=4))
    train(command_line(twin, pictures, tmp_path / "parts", **settings, max_train_steps=2))
    held = {path.name for path in (tmp_path / "parts/checkpoint-2/unet").iterdir()}
    assert held == {"model.safetensors"}
    assert sum(path.stat().st_size for path in (tmp_path / "parts/checkpoint-2").rglob("*")) < 300_000
    train(
        command_line(twin, pictures, tmp_path / "parts", **settings, max_train_steps=4, resume_from_checkpoint="latest")
    )
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_defaults_that_are_spelled_out_are_no_change(line):
    train(line(save_steps=3))
    train(line(lora_alpha=2, lora_dropout=0, resume_from_checkpoint="latest", max_train_steps=4))


def test_an_earlier_lora_in_another_format_does_not_stay(flags, line, tmp_path):
    def loras():
        return {path.name for path in (tmp_path / "out").glob("*.safetensors")}

    train(line())
    train(line(save_format="diffusers"))
    assert loras() == {"pytorch_lora_weights.safetensors"}
    train(flags(overwrite=True))
    assert loras() == set()


def test_the_card_shows_code_where_the_library_reads_the_lora(line, tmp_path):
    train(line())
    card = (tmp_path / "out/README.md").read_text()
    assert 'load_lora_weights("./out")' in card and "ppdiffusers, lora]" in card
    train(line(train_text_encoder=True))
    assert "```python" not in (tmp_path / "out/README.md").read_text()
    train(line(train_text_encoder=True, lora_merge=True))
    assert "```python" in (tmp_path / "out/README.md").read_text()


def test_a_checkpoint_of_another_rank_is_refused(line):
    train(line(save_steps=3))
    with pytest.raises(BadInput, match="lora_rank: 2 then, 4 now"):
        train(line(lora_rank=4, resume_from_checkpoint="latest", max_train_steps=5))


def test_two_processes_learn_what_one_does(twin, pictures, tmp_path):
    settings = dict(lora_rank=2, learning_rate=1e-3, lora_dropout=0.3, train_text_encoder=True)
    train(command_line(twin, pictures, tmp_path / "one", **settings, train_batch_size=2))
    done = launch(tmp_path, "train_dreambooth.py", *command_line(twin, pictures, tmp_path / "two", **settings))
    assert done.returncode == 0, done.stdout + done.stderr
    train(command_line(twin, pictures, tmp_path / "other", **{**settings, "seed": 1}, train_batch_size=2))
    assert mean_difference(tmp_path / "one", tmp_path / "two") < 1e-2 * mean_difference(
        tmp_path / "one", tmp_path / "other"
    )


def test_it_learns(line, tmp_path):
    """The loss of the same noise and timesteps falls: 60 updates on the twin's five pictures."""
    from visualdl import LogReader

    train(line(max_train_steps=60, lora_rank=8, train_batch_size=2))
    [log] = (tmp_path / "out/logs").glob("vdlrecords*")
    losses = [each.value for each in LogReader(file_path=str(log)).get_data("scalar", "training/loss")]
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:15])


@pytest.mark.parametrize(
    "changes, complaint",
    [
        (dict(lora_rank=None, lora_alpha=2), "--lora_alpha needs --lora_rank"),
        (dict(lora_rank=None, lora_merge=True), "--lora_merge needs --lora_rank"),
        (dict(lora_dropout=1), "--lora_dropout 1.0: must be less than 1"),
        (dict(lora_rank=0), "--lora_rank 0: must be at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(line, changes, complaint):
    with pytest.raises(BadInput, match=complaint):
        train(line(**changes))


def test_a_whole_pipeline_is_not_left_beside_a_newer_lora(flags, line, tmp_path):
    train(flags())
    with pytest.raises(BadInput, match="holds a whole pipeline, .*; give a new folder, or --overwrite"):
        train(line())
    train(line(overwrite=True))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"paddle_lora_weights.safetensors", "training_args.json", "README.md", "logs", *OF_THE_REPORT}
    train(line(lora_merge=True))


def test_the_learning_rate_is_higher_unless_it_is_given(twin, pictures, tmp_path):
    from dreambooth.config.parser import read_config

    def rate(**changes):
        return read_config(command_line(twin, pictures, tmp_path, learning_rate=None, **changes), "").base_rate

    assert (rate(), rate(lora_rank=4)) == (5e-6, 1e-4)
