"""Updates: rates, norms, clipping, loss scale and state, against numbers worked out by hand."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn
from support.settings import small_config

from dreambooth.system import processes
from dreambooth.training import updates as training_updates
from dreambooth.training.optimizers import table as optimizers
from dreambooth.training.updates import Updates

RATE, STEPS = 1e-3, 20


def small_network():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def two_networks():
    return {"unet": small_network(), "text_encoder": small_network()}


def values(networks):
    return {name: each.numpy().copy() for name, each in training_updates.named_parameters(networks).items()}


def updates_of(networks, steps=STEPS, **changes):
    config = small_config(**changes)
    updates = Updates(config.optimizer, networks, config.rates(networks, "unet", processes=1), steps, config.memory)
    updates.networks = networks  # for update()
    return updates


def update(updates, step=0, accumulation=1):
    """One update on data that depends on the step; the norm of its gradients."""
    numbers = np.random.default_rng(step)
    for _ in range(accumulation):
        x = paddle.to_tensor(numbers.standard_normal((5, 3), np.float32))
        updates.backward(sum((network(x) ** 2).mean() for network in updates.networks.values()))
    norm = updates.gather_gradients()
    assert updates.step(norm)
    return None if norm is None else float(norm)


def test_the_schedule_is_counted_in_updates_not_in_backward_passes():
    updates = updates_of(two_networks(), learning_rate=RATE, lr_scheduler="linear", lr_warmup_steps=0)
    rates = []
    for step in range(4):
        rates.append(updates.rate)
        update(updates, step, accumulation=8)
    assert rates == pytest.approx([RATE, RATE * 19 / 20, RATE * 18 / 20, RATE * 17 / 20])


@pytest.mark.parametrize("text_encoder_lr, moved", [(None, 1e-2), (1e-3, 1e-3), (5e-2, 5e-2)])
def test_each_network_moves_by_its_own_rate(text_encoder_lr, moved):
    """The first step of AdamW moves a weight by the rate, whatever its gradient."""
    networks = two_networks()
    before = values(networks)
    update(updates_of(networks, learning_rate=1e-2, text_encoder_lr=text_encoder_lr, adam_weight_decay=0.0))
    for name, after in values(networks).items():
        rate = 1e-2 if name.startswith("unet.") else moved
        assert np.allclose(abs(after - before[name]), rate, rtol=1e-2), name


def test_both_rates_follow_the_schedule():
    networks = two_networks()
    settings = dict(lr_scheduler="constant_with_warmup", lr_warmup_steps=2, adam_weight_decay=0.0)
    updates = updates_of(networks, learning_rate=1e-2, text_encoder_lr=1e-3, **settings)
    before = values(networks)
    update(updates)
    assert all(np.array_equal(after, before[name]) for name, after in values(networks).items())
    update(updates)  # the same gradient again: a step of half the rate
    for name, after in values(networks).items():
        rate = 1e-2 if name.startswith("unet.") else 1e-3
        assert np.allclose(abs(after - before[name]), rate / 2, rtol=1e-2), name


def three_and_four():
    """Two weights whose gradients are [3, 0] and [4], so that their norm is 5, and one without a gradient."""
    weights = [paddle.create_parameter(shape, "float32") for shape in ([2], [1], [7])]
    (3 * weights[0][0] + 4 * weights[1].sum()).backward()
    return weights


def test_the_norm_is_taken_over_all_gradients():
    weights = three_and_four()
    assert float(training_updates.gradient_norm(weights)) == 5.0
    assert [weights[0].grad.tolist(), weights[1].grad.tolist(), weights[2].grad] == [[3.0, 0.0], [4.0], None]


def test_gradients_above_the_limit_are_scaled_down_to_it_all_alike():
    weights = three_and_four()
    assert float(training_updates.gradient_norm(weights, max_norm=1.0)) == 5.0
    assert weights[0].grad.tolist() == pytest.approx([0.6, 0.0], rel=1e-5)
    assert weights[1].grad.tolist() == pytest.approx([0.8], rel=1e-5)


@pytest.mark.parametrize("max_norm", [5.1, 100.0])
def test_gradients_below_the_limit_stay_as_they_are(max_norm):
    weights = three_and_four()
    assert float(training_updates.gradient_norm(weights, max_norm)) == 5.0
    assert [weights[0].grad.tolist(), weights[1].grad.tolist()] == [[3.0, 0.0], [4.0]]


def test_max_grad_norm_bounds_what_an_update_sees():
    """With an epsilon this large AdamW's step is nearly proportional to the gradient."""
    moved = []
    for limit in (None, 1e-3):
        paddle.seed(0)
        networks = two_networks()
        before = values(networks)
        update(updates_of(networks, learning_rate=1.0, adam_epsilon=1e3, adam_weight_decay=0.0, max_grad_norm=limit))
        moved.append(math.sqrt(sum(((each - before[name]) ** 2).sum() for name, each in values(networks).items())))
    assert moved[0] > 2e-4
    assert moved[1] == pytest.approx(1e-6, rel=0.05)


def test_the_norm_is_returned_where_it_is_limited():
    assert update(updates_of(two_networks())) is None
    assert update(updates_of(two_networks(), max_grad_norm=1.0)) > 0


def test_no_gradient_is_left_after_an_update():
    updates = updates_of(two_networks())
    update(updates)
    assert updates.parameters and all(each.grad is None for each in updates.parameters)


class WithAnUnusedLayer(nn.Layer):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x)


class WithATiedLayer(nn.Layer):
    """One weight that is used twice, and one that no loss sees."""

    def __init__(self):
        super().__init__()
        self.tied, self.unused = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.tied(paddle.tanh(self.tied(x)))


@pytest.mark.parametrize("kind", [small_network, WithATiedLayer, WithAnUnusedLayer])
def test_early_updates_are_those_of_all_gradients_and_leave_none(kind):
    """Their checkpoints are the same too: each goes on from the other's."""

    def begin(early, weights):
        networks = {"unet": kind(), "text_encoder": kind()}
        for name, parameter in training_updates.named_parameters(networks).items():
            parameter.set_value(weights[name])
        settings = dict(learning_rate=1e-2, text_encoder_lr=3e-3, lr_scheduler="cosine", lr_warmup_steps=3)
        return updates_of(networks, **settings, early_update=early)

    weights = values({"unet": kind(), "text_encoder": kind()})
    runs = {early: begin(early, weights) for early in (False, True)}
    for step in range(6):
        x = paddle.to_tensor(np.random.default_rng(step).standard_normal((5, 3), np.float32))
        for early, run in runs.items():
            run.backward(sum((network(x) ** 2).mean() for network in run.networks.values()))
            assert all((each.grad is None) is (early or "unused" in name) for name, each in run.named.items())
            assert run.step(run.gather_gradients())
        assert runs[True].rate == runs[False].rate
        weights, states = (values(run.networks) for run in runs.values()), [run.state() for run in runs.values()]
        assert_same_arrays(*weights)
        tensors = [{name: each.numpy().copy() for name, each in state[0].items()} for state in states]
        assert_same_arrays(*tensors)
        if step == 2:
            for early, run in list(runs.items()):
                runs[not early] = begin(not early, values(run.networks))
                runs[not early].restore(tensors[early], json.loads(json.dumps(states[early][1])))


def assert_same_arrays(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name


def test_what_does_not_learn_is_neither_moved_nor_kept_in_the_state():
    networks = two_networks()
    networks["unet"][0].weight.stop_gradient = True
    assert "unet.0.weight" not in training_updates.named_parameters(networks)
    before = networks["unet"][0].weight.numpy().copy()
    updates = updates_of(networks, learning_rate=1e-2)
    update(updates)
    assert np.array_equal(networks["unet"][0].weight.numpy(), before)
    assert not [name for name in updates.state()[0] if name.startswith("unet.0.weight")]


def test_the_state_is_named_by_the_layers():
    updates = updates_of(two_networks())
    update(updates)
    tensors, state = updates.state()
    parameters = [f"{network}.{layer}.{kind}" for network in updates.networks for layer in "02"
                  for kind in ("weight", "bias")]  # fmt: skip
    assert set(tensors) == {
        f"{name}.{moment}" for name in parameters for moment in optimizers.OPTIMIZERS["adamw"].accumulators
    }
    automatic = [each.name for each in updates.parameters]
    assert not [name for name in automatic if name in json.dumps([*tensors, state])]


@pytest.mark.parametrize("kind", [small_network, WithAnUnusedLayer])
def test_a_restored_optimizer_goes_on_bit_for_bit_among_other_automatic_names(kind):
    settings = dict(learning_rate=1e-2, text_encoder_lr=3e-3, lr_scheduler="cosine", lr_warmup_steps=3)
    networks = {"unet": kind(), "text_encoder": kind()}
    whole = updates_of(networks, **settings)
    for step in range(5):
        update(whole, step)
    weights, (tensors, state) = values(networks), whole.state()
    tensors = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    for step in range(5, 10):
        update(whole, step)

    small_network()  # shifts the automatic names
    again = {"unet": kind(), "text_encoder": kind()}
    for name, parameter in training_updates.named_parameters(again).items():
        parameter.set_value(weights[name])
    resumed = updates_of(again, **settings)
    assert not {each.name for each in whole.parameters} & {each.name for each in resumed.parameters}
    resumed.restore(tensors, json.loads(json.dumps(state)))
    for step in range(5, 10):
        update(resumed, step)

    assert resumed.rate == whole.rate
    for name, value in values(networks).items():
        assert np.array_equal(value, values(again)[name]), name
    assert resumed.state()[0].keys() == whole.state()[0].keys()


class StandInScaler:
    """What GradScaler does with fp16 on a card, in a few lines: an update whose gradients overflowed is not made."""

    factor, overflowed = 4.0, False

    def __init__(self, parameters):
        self.parameters = parameters

    def is_enable(self):
        return True

    def scale(self, loss):
        return loss * self.factor

    @paddle.no_grad()
    def unscale_(self, optimizer):
        for each in self.parameters:
            each.grad.multiply_(paddle.to_tensor(1 / self.factor))
        self.overflowed = not all(bool(paddle.isfinite(each.grad).all()) for each in self.parameters)

    def step(self, optimizer):
        if not self.overflowed:
            optimizer.step()

    def update(self):
        self.factor *= 0.5 if self.overflowed else 1


def test_an_update_that_overflowed_changes_neither_weights_nor_schedule():
    network = small_network()
    updates = updates_of({"unet": network}, 10, lr_scheduler="linear", lr_warmup_steps=1)
    updates.scaler = StandInScaler(updates.parameters)
    before = [each.numpy().copy() for each in updates.parameters]
    updates.backward(network(paddle.ones([2, 3])).sum() * float("inf"))
    assert not updates.step(updates.gather_gradients())
    assert updates.schedule.last_epoch == 0 and updates.scaler.factor == 2.0
    assert all((each.numpy() == old).all() for each, old in zip(updates.parameters, before))
    for _ in range(2):
        updates.backward(network(paddle.ones([2, 3])).sum())
        norm = updates.gather_gradients()
        assert updates.step(norm)
    assert updates.schedule.last_epoch == 2 and any(
        (each.numpy() != old).any() for each, old in zip(updates.parameters, before)
    )


def test_thirty_overflows_in_a_row_are_no_fault_of_the_scale():
    network = small_network()
    updates = updates_of({"unet": network})
    updates.scaler = StandInScaler(updates.parameters)
    for factor in (*[math.inf] * 29, 1.0, *[math.inf] * 29):
        updates.backward(network(paddle.ones([2, 3])).sum() * factor)
        assert updates.step(updates.gather_gradients()) == math.isfinite(factor) and not updates.is_stuck
    updates.backward(network(paddle.ones([2, 3])).sum() * math.inf)
    assert not updates.step(updates.gather_gradients()) and updates.is_stuck


def test_the_loss_scale_leaves_the_gradients_and_their_norm_alone():
    network = small_network()
    updates = updates_of({"unet": network}, 10, max_grad_norm=1e6)
    norms = []
    for scaler in (updates.scaler, StandInScaler(updates.parameters)):
        updates.scaler = scaler
        updates.backward(network(paddle.ones([2, 3])).sum())
        norms.append(float(updates.gather_gradients()))
        updates.optimizers[0].clear_grad(set_to_zero=False)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


# Paddle's own scaler, which looks for a card before it does anything


class OnACard:
    """Paddle's tracer, but for the place that it computes on."""

    def __init__(self, real):
        self.real = real
        self._expected_place = SimpleNamespace(
            is_gpu_place=lambda: True, is_xpu_place=lambda: False, is_custom_place=lambda: False
        )

    def __getattr__(self, name):
        return getattr(self.real, name)


@pytest.fixture
def half(monkeypatch):
    """Updates as with --mixed_precision fp16 on a card, where the forward pass alone stays float32."""
    from paddle.amp import grad_scaler

    tracer = grad_scaler._dygraph_tracer
    monkeypatch.setattr(grad_scaler, "_dygraph_tracer", lambda: OnACard(tracer()))
    monkeypatch.setattr(processes, "is_on_gpu", lambda: True)

    def make(networks, precision="fp16"):
        updates = updates_of(networks, mixed_precision=precision, learning_rate=1e-2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the CPU has no half precision
            with updates.precision():
                return updates

    return make


def pass_back(updates, factor=1.0):
    network = updates.networks["unet"]
    updates.backward(network(paddle.ones([2, 3])).sum() * factor)


def test_paddles_scaler_leaves_an_overflow_out_and_halves_its_scale(half):
    network = small_network()
    updates = half({"unet": network})
    assert updates.scaler.is_enable()
    for factor, made, scale in ((1.0, True, 65536), (float("inf"), False, 32768), (1.0, True, 32768)):
        before = values(updates.networks)
        pass_back(updates, factor)
        assert updates.step(updates.gather_gradients()) is made
        changed = [name for name, value in values(updates.networks).items() if not np.array_equal(value, before[name])]
        assert bool(changed) is made and float(updates.scaler.state_dict()["scale"][0]) == scale
    assert updates.schedule.last_epoch == 2


def test_a_resumed_run_takes_the_scale_from_its_checkpoint(half):
    network = small_network()
    updates = half({"unet": network})
    for factor in (float("inf"), float("inf"), 1.0):
        pass_back(updates, factor)
        updates.step(updates.gather_gradients())
    tensors, state = updates.state()
    tensors = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    resumed = half({"unet": small_network()})
    resumed.restore(tensors, json.loads(json.dumps(state)))
    assert float(resumed.scaler.state_dict()["scale"][0]) == 16384 and resumed.scaler.state_dict()["incr_count"] == 1
    pass_back(resumed)
    assert resumed.step(resumed.gather_gradients())


def test_with_half_precision_weights_and_moments_stay_single(half):
    for precision in ("fp16", "bf16"):
        updates = half({"unet": small_network()}, precision)
        assert updates.half == {"fp16": "float16", "bf16": "bfloat16"}[precision]
        assert updates.scaler.is_enable() == (precision == "fp16")
        pass_back(updates)
        updates.step(updates.gather_gradients())
        assert {str(each.dtype) for each in updates.parameters} == {"paddle.float32"}
        assert {str(each.dtype) for each in updates.state()[0].values()} == {"paddle.float32"}


def test_without_a_card_half_precision_does_nothing():
    updates = updates_of({"unet": small_network()}, mixed_precision="fp16")
    assert updates.half is None and not updates.scaler.is_enable()
