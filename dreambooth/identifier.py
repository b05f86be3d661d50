"""List words that are rare to a model, for use as an identifier.

    python -m dreambooth.identifier --model ./my_model
    python -m dreambooth.identifier --model ./my_model --check "a photo of sks dog"

They are chosen as the DreamBooth paper does: one token of the model's own tokenizer, rare, three or fewer letters,
drawn at random from all such tokens; another --seed draws others. Where a model has two CLIPs, a word is rare if it is
so in both tokenizers; T5 beside them reads it in pieces.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreambooth.config import commands, parser
from dreambooth.config.fields import flag
from dreambooth.data import randomness
from dreambooth.data.rare_words import RareWords
from dreambooth.files import weight_files
from dreambooth.models import loading, pipeline_folder
from dreambooth.system import console, libraries
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.data.rare_words import Candidate


# fmt: off
@dataclass(frozen=True)
class IdentifierSettings(commands.CommandFlags, title="model and words"):
    """The settings of dreambooth.identifier."""

    model: str = flag(
        "a pipeline's folder or name (required)", required=True)
    count: int = flag(
        "how many to list", 20, least=1)
    seed: int = flag(
        "the seed of the random choice", 0, least=0)
    all: bool = flag(
        "list all, the rarest first, instead of some", False)
    check: str | None = flag(
        "check this prompt instead: is its identifier rare, is its class named")
# fmt: on


def read_settings(argv: Sequence[str]) -> IdentifierSettings:
    """Read the command line, and check everything that needs no library."""
    program = "python -m dreambooth.identifier"
    settings = parser.read_settings(IdentifierSettings, argv, prog=program, description=__doc__)
    pipeline_folder.check_model(settings.model, flag="--model")
    return settings


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    libraries.load(weight_files.READERS, settings.verbose)
    tokenizers = loading.load_tokenizers(loading.Source(settings.model), "--model")
    words = RareWords(*tokenizers)
    if settings.check is not None:
        print(words.description(settings.check))
        problems = list(words.problems(settings.check))
        print("\n".join(problems) or "nothing is wrong with it")
        if problems:
            sys.exit(1)
        return
    candidates = words.candidates()
    if not candidates:
        owner = "tokenizer has" if len(tokenizers) == 1 else "tokenizers have"
        raise BadInput(f"--model {settings.model}: its {owner} no rare word of up to three letters")
    shown = candidates if settings.all else _some(candidates, settings.count, settings.seed)
    for each in shown:
        print(f"{each.word}\ttoken {each.token}")
    if not settings.all:
        print(f"{len(shown)} of {len(candidates)}; --all lists them all, --seed draws others")


def _some(candidates: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    """Draw `count` of them at random without replacement; the rarest come first."""
    order = randomness.stream(seed, "identifiers").permutation(len(candidates))[:count]
    return [candidates[index] for index in sorted(order)]


if __name__ == "__main__":
    console.run_command(main)
