"""Models of the tests, loaded as the commands load them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.models import loading

if TYPE_CHECKING:
    from pathlib import Path

    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Pipeline


def load_family(folder: Path, tokenizer_name: str | None = None, train_text_encoders: bool = False) -> Family:
    source = loading.Source(str(folder), tokenizer_name=tokenizer_name)
    return loading.load_family(source, train_text_encoders=train_text_encoders)


def load_pipeline(folder: Path) -> Pipeline:
    return load_family(folder).pipeline
