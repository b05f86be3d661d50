"""The sections of the run around the learning: what each derives from its own fields."""

import pytest

from dreambooth.config import run_sections
from dreambooth.system.errors import BadInput


def test_validation_pictures_need_a_prompt():
    with pytest.raises(BadInput, match="--num_validation_images needs --validation_prompt"):
        run_sections.LoggingSettings(num_validation_images=3)
    assert run_sections.LoggingSettings(validation_prompt=("x",), num_validation_images=3).validation_count == 3
    assert run_sections.LoggingSettings(validation_prompt=("x",)).validation_count == 4


def test_changes_are_allowed_to_a_resumed_run_alone():
    with pytest.raises(BadInput, match="--allow_changes needs --resume_from_checkpoint"):
        run_sections.SavingSettings(allow_changes=True)
    assert run_sections.SavingSettings(allow_changes=True, resume_from_checkpoint="latest").allow_changes
