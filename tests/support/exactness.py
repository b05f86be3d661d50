"""Runs that end alike: whole or in parts, by one process or by two."""

from support.commands import train_in_one_and_two_processes, train_whole_and_in_parts
from support.weights import assert_same, mean_difference


def assert_exact(model, pictures, folder, **settings):
    """A run in parts ends bit for bit as a whole one, and two processes learn what one does, up to rounding."""
    part = "" if "lora_rank" in settings else "unet"
    train_whole_and_in_parts(model, pictures, folder, **settings)
    assert_same(folder / "whole" / part, folder / "parts" / part)
    train_in_one_and_two_processes(model, pictures, folder, **settings)
    same, other = (mean_difference(folder / "one" / part, folder / name / part) for name in ("two", "other"))
    assert same < 2e-2 * other
