"""What a card can do, and what is recorded of it, with a stand-in for Paddle's answers."""

import os

import paddle
import pytest
from support.cards import pretend
from support.commands import train

from dreambooth.system import machine, processes
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput

CARDS = {
    "GTX 1080": "6.1",
    "Tesla V100": "7.0",
    "Tesla T4": "7.5",
    "A100": "8.0",
    "RTX 4090": "8.9",
    "RTX 5090": "12.0",
}


@pytest.mark.parametrize("name", CARDS)
def test_half_precision_needs_the_capability_that_paddle_asks_for(monkeypatch, name):
    pretend(monkeypatch, name, CARDS[name])
    can = {each for each in ("no", "fp16", "bf16") if not cards.reason_against(each)}
    capability = float(CARDS[name])
    assert can == {"no"} | ({"fp16"} if capability >= 7 else set()) | ({"bf16"} if capability >= 8 else set())


def test_bf16_needs_a_build_for_cuda_11(monkeypatch):
    pretend(monkeypatch, "A100", "8.0", cuda="10.2")
    assert "built for CUDA 10.2" in cards.reason_against("bf16") and not cards.reason_against("fp16")


@pytest.mark.parametrize(
    "capability, precision, remedy",
    [
        ("6.1", "fp16", "leave the flag out"),
        ("6.1", "bf16", "leave the flag out"),
        ("7.5", "bf16", "give --mixed_precision fp16, or leave the flag out"),
    ],
)
def test_a_precision_that_a_card_lacks_is_refused_before_the_run_begins(
    flags, monkeypatch, tmp_path, capability, precision, remedy
):
    pretend(monkeypatch, capability=capability)
    with pytest.raises(BadInput) as refused:
        train(flags(mixed_precision=precision))
    least = {"fp16": "7.0", "bf16": "8.0"}[precision]
    reason = f"this card has compute capability {capability}, and {precision} needs {least}"
    assert str(refused.value) == f"--mixed_precision {precision}: {reason}; {remedy}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_what_a_card_can_do_is_not_refused_and_on_the_cpu_nothing_is(monkeypatch, precision):
    cards.check_precision(precision)
    pretend(monkeypatch, "A100", "8.0")
    cards.check_precision(precision)


def test_a_card_is_described_by_what_decides_on_the_bits(monkeypatch):
    pretend(monkeypatch)
    described = machine.describe(machine.use_cores([]))
    assert described == {"card": "Tesla T4", "capability": "7.5", "cuda": "11.8", "driver": "535.104.05"}
    assert machine.in_words(described) == "Tesla T4, compute capability 7.5, CUDA 11.8, driver 535.104.05"


@pytest.mark.parametrize(
    "script, found", [("printf '535.1\\n535.1\\n'", "535.1"), ("exit 9", ""), ("sleep 60", ""), (None, "")]
)
def test_the_driver_is_asked_and_need_not_answer(monkeypatch, tmp_path, script, found):
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}" if script else str(tmp_path)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(cards, "_SECONDS", 0.3)
    cards.driver.cache_clear()
    try:
        assert cards.driver() == found
    finally:
        cards.driver.cache_clear()


@pytest.mark.parametrize("precision, kind", [("no", None), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_half_precision_is_for_cards_alone(monkeypatch, precision, kind):
    assert cards.half(precision) is None
    monkeypatch.setattr(processes, "is_on_gpu", lambda: True)
    assert cards.half(precision) == kind


def test_products_are_computed_in_the_kind(monkeypatch):
    asked = []
    monkeypatch.setattr(paddle.amp, "auto_cast", lambda **settings: asked.append(settings))
    cards.computing_in(None)
    cards.computing_in("bfloat16")
    assert asked == [dict(enable=False, dtype="float16"), dict(enable=True, dtype="bfloat16")]
