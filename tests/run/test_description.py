"""The lines that describe a run."""

import pytest
from support.commands import train

from dreambooth.system import console


@pytest.mark.parametrize("size, warned", [(512, True), (128, True), (64, False), (32, False), (16, False), (8, True)])
def test_a_size_that_is_not_the_models_is_warned_of(flags, capsys, size, warned):
    train(flags(resolution=size, dry_run=True))  # the twin draws 32 x 32
    complaint = f"--resolution {size}: this model draws 32 x 32 pixels, and learns badly at a size so different"
    assert (complaint in capsys.readouterr().err) == warned


@pytest.mark.parametrize("number, text", [(0, "0 MB"), (29.4e6, "29 MB"), (1e9, "1.0 GB"), (13.76e9, "13.8 GB")])
def test_sizes_are_in_units_that_people_read(number, text):
    assert console.amount(number) == text
