"""The sizes of a model's networks, read from its folder: from the headers of its files and from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.files import atomic, weight_files
from dreambooth.models import hub, layouts, pipeline_folder, registry
from dreambooth.models.family.facts import FamilyFacts
from dreambooth.run.memory import pieces
from dreambooth.run.memory.pieces import Shape

if TYPE_CHECKING:
    from dreambooth.config.sections import ModelSettings
    from dreambooth.run.memory.pieces import Piece
    from dreambooth.system.types import Size

_TOKENS = 77  # of a text encoder whose config.json does not say


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model's networks, whatever the settings of a run."""

    facts: FamilyFacts
    weights: Mapping[str, int]  # part -> numbers
    settings: Mapping[str, Mapping[str, Any]]  # part -> its config.json

    def pieces(self, part: str, size: Size, rows: int) -> list[Piece]:
        """Return the pieces of a part for some examples of a size, or prompts, with all weights of the part."""
        text = self.settings[self.facts.prompt_encoders[0]]
        levels = len(self.settings[self.facts.decoder]["block_out_channels"]) if self.facts.decoder else 1
        factor = 2 ** (levels - 1)
        height, width = size
        tokens = text.get("max_position_embeddings", _TOKENS)
        shape = Shape(rows, (height // factor, width // factor), tokens)
        counted = pieces.COUNTS[self.facts.kinds[part]](self.settings[part], shape)
        return pieces.whole(counted, self.weights[part])


def read(model: ModelSettings) -> Sizes | None:
    """Read the sizes of a model, which is fetched where it is a name on the hub.

    None where the folder is unlike those of the library in a way that only loading it explains.
    """
    folder = Path(hub.find_model(model.pretrained_model_name_or_path, model.revision))
    try:
        facts = registry.facts_of(pipeline_folder.read_index(folder))
        facts = facts.without(facts.lackable) if model.without_t5 else facts
        files = layouts.choose_files(folder, facts).files
        parts = {part: layouts.part_folder(folder, part, facts) for part in facts.networks}
        weights = {part: sum(map(weight_files.count, files[part].paths(path))) for part, path in parts.items()}
        return Sizes(facts, weights, {part: _settings(path) for part, path in parts.items()})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _settings(part: Path) -> Mapping[str, Any]:
    """Read the settings of a network; those of a text encoder may be in a section."""
    for name in (layouts.CONFIG, layouts.OLD_CONFIG):
        if (part / name).is_file():
            found = atomic.read_json(part / name)
            return {**found, **found.get("text_config", {})} if "hidden_size" not in found else found
    return {}
