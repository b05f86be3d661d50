"""The adapters of a family by part, and the origin of a model that a family loads its parts from."""

import inspect

import pytest

from dreambooth.models import loading
from dreambooth.models.family import interfaces


class Recorder:
    """An adapter that records its calls."""

    def __init__(self):
        self.calls = []

    def attach(self):
        self.calls.append("attach")

    def detach(self):
        self.calls.append("detach")

    def clear_dropout(self):
        self.calls.append("clear_dropout")

    def matrices(self):
        return {"layer": ("down", "up")}


def test_every_adapter_is_off_within_the_context_even_where_it_fails():
    recorders = {"denoiser": Recorder(), "words": Recorder()}
    with pytest.raises(ZeroDivisionError), interfaces.Adapters(recorders).off():
        assert all(each.calls == ["detach"] for each in recorders.values())
        raise ZeroDivisionError
    assert all(each.calls == ["detach", "attach"] for each in recorders.values())


def test_the_adapters_act_by_part():
    adapters = interfaces.Adapters(denoiser=Recorder(), words=Recorder())
    adapters.clear_dropout()
    assert [each.calls for each in adapters.values()] == [["clear_dropout"]] * 2
    assert adapters.matrices() == {"denoiser": {"layer": ("down", "up")}, "words": {"layer": ("down", "up")}}


def test_a_source_has_the_methods_of_the_interface():
    methods = [name for name, each in vars(interfaces.Source).items() if inspect.isfunction(each) and name[0] != "_"]
    assert methods == ["fingerprint", "load_pipeline", "scheduler_settings"]
    assert all(inspect.isfunction(getattr(loading.Source, name)) for name in methods)
