"""LoRA's layers beside a network: what they add, what learns, what a dropout drops, and that the network stays."""

import dataclasses

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file
from support.commands import command_line, launch, train
from support.weights import assert_same, largest_difference, weights

from dreambooth.data.concepts import Example, MicroBatch, View
from dreambooth.models import loading
from dreambooth.system import randomness
from dreambooth.system.errors import BadInput
from dreambooth.training import adapters as training_adapters
from dreambooth.training.adapters import Adapters


class Network(paddle.nn.Layer):
    """The names that attention has, and a layer that is none."""

    def __init__(self):
        super().__init__()
        self.to_q, self.other = paddle.nn.Linear(6, 4), paddle.nn.Linear(6, 4)
        self.to_out = paddle.nn.LayerList([paddle.nn.Linear(4, 4)])

    def forward(self, x):
        return self.to_out[0](self.to_q(x) + self.other(x))


def adapters_of(network, rank=2, alpha=2.0, dropout=0.0, seed=0, part="unet"):
    return Adapters(part, network, rank, alpha, dropout, seed)


def filled(adapters):
    """Give the second matrices something else than zeros."""
    for number, adapter in enumerate(adapters.adapters.values()):
        values = np.random.default_rng(number).standard_normal(adapter.up.weight.shape)
        adapter.up.weight.set_value(values.astype(np.float32))
    return adapters


def given(shape=(3, 5, 6)):
    return paddle.to_tensor(np.random.default_rng(9).standard_normal(shape).astype(np.float32))


def test_at_the_start_they_add_nothing_and_they_hang_on_the_attention_alone():
    network = Network()
    before, names = network(given()).numpy(), set(network.state_dict())
    adapters = adapters_of(network)
    assert np.array_equal(network(given()).numpy(), before)
    assert list(adapters.adapters) == ["to_q", "to_out.0"] and set(network.state_dict()) == names
    assert set(adapters.state_dict()) == {
        f"{layer}.{side}.weight" for layer in ("to_q", "to_out.0") for side in ("down", "up")
    }


def test_what_they_add_is_alpha_over_rank_times_the_product():
    network = Network()
    plain = network.to_q(given()).numpy()
    adapter = filled(adapters_of(network, rank=2, alpha=5.0)).adapters["to_q"]
    change = given().numpy() @ adapter.down.weight.numpy() @ adapter.up.weight.numpy() * 2.5
    assert np.allclose(network.to_q(given()).numpy(), plain + change, atol=1e-5)


def test_the_matrices_carry_the_scale():
    adapters = filled(adapters_of(Network(), rank=2, alpha=5.0))
    down, up = adapters.matrices()["to_q"]
    assert down.shape == (2, 6) and up.shape == (4, 2)
    assert np.allclose(up.T, adapters.adapters["to_q"].up.weight.numpy() * 2.5)


def test_the_first_matrix_is_a_function_of_the_seed():
    one, same, other = (adapters_of(Network(), seed=seed).matrices()["to_q"][0] for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    wide = adapters_of(Network(), rank=64).matrices()["to_q"][0]
    assert abs(wide.std() * 64 - 1) < 0.2  # the spread that the library gives it


def test_taken_off_the_network_is_as_it_was():
    network = Network()
    before = network(given()).numpy()
    adapters = filled(adapters_of(network))
    assert not np.allclose(network(given()).numpy(), before)
    adapters.take_off()
    assert np.array_equal(network(given()).numpy(), before)


def test_a_network_without_attention_is_refused():
    with pytest.raises(BadInput, match="--lora_rank: the unet has no attention"):
        adapters_of(paddle.nn.Sequential(paddle.nn.Linear(2, 2)))


def test_dropout_is_a_function_of_the_place_and_not_of_the_split():
    network = Network()
    adapters = filled(adapters_of(network, dropout=0.5))
    places, x = [(4, 0, 0), (4, 1, 0), (4, 2, 0)], given()
    adapters.drop(places, seed=1)
    whole = network(x).numpy()
    for index, place in enumerate(places):
        adapters.drop([place], seed=1)
        assert np.allclose(network(x[index : index + 1]).numpy(), whole[index : index + 1], atol=1e-6)
    adapters.drop([(5, 0, 0)] * 3, seed=1)
    assert not np.allclose(network(x).numpy(), whole)
    adapters.drop_nothing()
    plain = network(x).numpy()
    assert not np.allclose(plain, whole)


def test_dropout_keeps_the_mean_and_drops_its_share():
    adapters = adapters_of(Network(), dropout=0.25)
    adapters.drop([(0, slot, 0) for slot in range(4000)], seed=0)
    kept = adapters.kept["to_q"].numpy()
    assert kept.shape == (4000, 1, 6) and set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    assert abs((kept == 0).mean() - 0.25) < 0.02 and abs(kept.mean() - 1) < 0.02


def test_the_text_encoder_drops_by_prompt():
    unet, text = (filled(adapters_of(Network(), dropout=0.5, part=part)) for part in ("unet", "text_encoder"))
    keys = [(7, 0, 0), (7, 1, 0), (7, 0, 1), (7, 1, 1)]
    batch = MicroBatch(tuple(Example(key, 0, key[2], View((8, 8), (8, 8))) for key in keys), prior=2)
    training_adapters.drop({"unet": unet, "text_encoder": text}, 0, batch)
    assert unet.kept["to_q"].shape[0] == 4 and text.kept["to_q"].shape[0] == 2
    first = text.kept["to_q"].numpy()
    others = dataclasses.replace(batch, examples=batch.examples[1:3])  # another process's share
    training_adapters.drop({"text_encoder": text}, 0, others)
    assert np.array_equal(text.kept["to_q"].numpy(), first)


@pytest.mark.parametrize("model", ["twin", "velocity_twin", "bert_twin", "unidiffuser_twin"])
def test_every_architecture_has_attention_that_takes_gradients(model, request):
    """With gradient checkpointing too, where the model can do it."""
    twin = request.getfixturevalue(model)

    def gradients(checkpointing):
        family = loading.load_model(str(twin), train_text_encoder=True)
        networks = family.learners()
        family.adapters = {part: filled(Adapters(part, network, 2, 2.0, 0.0, 0)) for part, network in networks.items()}
        family.prepare_training(checkpointing)
        encoding = family.encode_pictures(paddle.to_tensor(np.zeros((1, 3, 32, 32), np.float32)))
        latents = family.draw_latents(encoding, paddle.zeros(encoding["mean"].shape))
        added = paddle.to_tensor(randomness.normal(0, "noise", [(0,)], tuple(latents.shape[1:])))
        steps = paddle.to_tensor(np.array([500]))
        noisy = family.schedule.add_noise(latents, added, steps)
        prediction = family.predict(noisy, steps, family.encode_prompts(["a photo of sks dog"]))
        family.picture_part(prediction).square().mean().backward()
        for network in networks.values():
            assert all(each.grad is None and each.stop_gradient for each in network.parameters())
        return {
            f"{part}.{name}": each.grad.numpy()
            for part, adapters in family.trained().items()
            for name, each in adapters.named_parameters()
        }

    plain = gradients(checkpointing=False)
    assert {name.split(".")[0] for name in plain} == {"unet", "text_encoder"}
    assert all(np.abs(value).max() > 0 for value in plain.values())
    if model != "unidiffuser_twin":
        again = gradients(checkpointing=True)
        for name, value in plain.items():  # Paddle 2.6.2 adds up the gradients of a shared input in another order
            assert np.abs(value - again[name]).max() <= 1e-5 * np.abs(value).max(), name


# whole runs


@pytest.fixture
def line(flags):
    return lambda **changes: flags(**{"lora_rank": 2, "learning_rate": 1e-2, "max_train_steps": 3, **changes})


def test_the_output_is_a_small_file_and_no_pipeline(line, twin, tmp_path, capsys):
    train(line(train_text_encoder=True))
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {"paddle_lora_weights.safetensors", "training_args.json", "README.md", "logs"}
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
    assert f"infer.py --model_path {out}" in card


def test_merged_it_is_a_pipeline_too_and_the_base_stays_bit_for_bit(line, twin, tmp_path):
    before = {part: weights(twin / part) for part in ("unet", "text_encoder")}
    train(line(lora_merge=True, lora_alpha=6, train_text_encoder=True))
    out = tmp_path / "out"
    for part, held in before.items():
        assert all(np.array_equal(held[name], value) for name, value in weights(twin / part).items())
        assert largest_difference(twin / part, out / part) > 0
        changed = {name for name, value in weights(out / part).items() if not np.array_equal(value, held[name])}
        assert changed and all(training_adapters.ATTENTION.search(name.removesuffix(".weight")) for name in changed)
    assert_same(twin / "vae", out / "vae")
    assert loading.load_pipeline(str(out)) and (out / "paddle_lora_weights.safetensors").exists()


def test_its_own_networks_are_not_moved_by_training(line, twin, monkeypatch):
    held = []
    put_on = training_adapters.put_on
    monkeypatch.setattr(
        training_adapters, "put_on", lambda networks, config: held.append(networks) or put_on(networks, config)
    )
    train(line(adam_weight_decay=0.5))
    [networks] = held
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
    train(flags())
    assert loras() == set()


def test_the_card_shows_code_where_the_library_reads_the_lora(line, tmp_path):
    train(line())
    card = (tmp_path / "out/README.md").read_text()
    assert f'load_lora_weights("{tmp_path / "out"}")' in card and "ppdiffusers, lora]" in card
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


def mean_difference(one, other):
    one, other = weights(one), weights(other)
    return float(np.mean([np.abs(one[name] - other[name]).mean() for name in one]))


def test_it_learns(line, tmp_path):
    """The loss of the same noise and timesteps falls: 60 updates on the twin's five pictures."""
    from visualdl import LogReader

    train(line(max_train_steps=60, lora_rank=8, train_batch_size=2))
    [log] = (tmp_path / "out/logs").glob("vdlrecords*")
    losses = [each.value for each in LogReader(file_path=str(log)).get_data("scalar", "loss")]
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


def test_a_whole_pipeline_is_not_left_beside_a_newer_lora(flags, line):
    train(flags())
    with pytest.raises(BadInput, match="holds a whole pipeline"):
        train(line())
    train(line(lora_merge=True))


def test_the_learning_rate_is_higher_unless_it_is_given(twin, pictures, tmp_path):
    from dreambooth.config.parser import read_config

    def rate(**changes):
        return read_config(command_line(twin, pictures, tmp_path, learning_rate=None, **changes), "").base_rate

    assert (rate(), rate(lora_rank=4)) == (5e-6, 1e-4)
