"""A card that is not there, for the logic that asks for its abilities."""

from types import SimpleNamespace

import paddle

from dreambooth.system.devices import cards


def pretend(monkeypatch, name="Tesla T4", capability="7.5", cuda="11.8", driver="535.104.05"):
    """Let Paddle answer as on a machine with that card."""
    major, minor = map(int, capability.split("."))
    properties = SimpleNamespace(name=name, major=major, minor=minor, total_memory=15_843_721_216)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_properties", lambda device=None: properties)
    monkeypatch.setattr(paddle.version, "cuda", lambda: cuda)
    monkeypatch.setattr(cards, "driver", lambda: driver)
