"""The sections of the run around the learning: what each derives from its own fields."""

import pytest

from dreambooth.config import run_sections
from dreambooth.system.errors import BadInput


def test_validation_settings_need_a_prompt():
    for name in ("validation_steps", "num_validation_images"):
        with pytest.raises(BadInput, match=f"--{name} needs --validation_prompt"):
            run_sections.LoggingSettings(**{name: 3})
    assert run_sections.LoggingSettings(validation_prompt=("x",), num_validation_images=3).validation_count == 3
    assert run_sections.LoggingSettings(validation_prompt=("x",)).validation_count == 4


def test_changes_are_allowed_to_a_resumed_run_alone():
    with pytest.raises(BadInput, match="--allow_changes needs --resume_from_checkpoint"):
        run_sections.SavingSettings(allow_changes=True)
    assert run_sections.SavingSettings(allow_changes=True, resume_from_checkpoint="latest").allow_changes
