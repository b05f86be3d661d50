"""Cards: those of this machine, which most tests do not see, and one that is not there, for what asks for abilities."""

import os
import subprocess
import sys
from types import SimpleNamespace

import paddle

import support
from dreambooth.system.devices import cards


def pretend(monkeypatch, name="Tesla T4", capability="7.5", cuda="11.8", driver="535.104.05"):
    """Let Paddle answer as on a machine with that card."""
    major, minor = map(int, capability.split("."))
    properties = SimpleNamespace(name=name, major=major, minor=minor, total_memory=15_843_721_216)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_properties", lambda device=None: properties)
    monkeypatch.setattr(paddle.version, "cuda", lambda: cuda)
    monkeypatch.setattr(cards, "driver", lambda: driver)


def environment_with_cards():
    """The environment of a process that sees the cards that the user lets the tests have."""
    own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return own if support.VISIBLE == "all" else {**own, "CUDA_VISIBLE_DEVICES": support.VISIBLE}


def reason_against_cards():
    """Why test_gpu.py has nothing to test, or None."""
    if not paddle.is_compiled_with_cuda():
        return "this Paddle is the build for the CPU"
    count = "import paddle; print('cards', paddle.device.cuda.device_count())"
    line, environment = [sys.executable, "-c", count], environment_with_cards()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    return None if "cards" in done.stdout and "cards 0" not in done.stdout else "this Paddle finds none"
