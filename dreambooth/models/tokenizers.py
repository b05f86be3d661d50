"""Tokenizers: their length, another one, and the end of a prompt that does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dreambooth.system.types import Network, Tokenizer


def limit_tokens(tokenizer: Tokenizer, text_encoder: Network) -> None:
    """Limit a tokenizer to as many tokens as the text encoder has positions; the limit is saved with it.

    The maximum of a tokenizer without one is 1e30, with which it fails.
    """
    most = text_encoder.config.max_position_embeddings
    if tokenizer.model_max_length > most:
        tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = most


def another_tokenizer(name: str, own: Tokenizer, text_encoder: Network) -> Tokenizer:
    """Load another tokenizer in place of the model's own, of the same class."""
    try:
        tokenizer = type(own).from_pretrained(name)
    except Exception as error:
        raise BadInput(f"--tokenizer_name {name}: it can't be loaded ({error})") from error
    limit_tokens(tokenizer, text_encoder)
    return tokenizer


def truncations(tokenizer: Tokenizer, prompts: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each prompt that is too long for the tokenizer."""
    for prompt in dict.fromkeys(prompts):
        if truncated := truncated_text(tokenizer, prompt):
            yield f'a prompt is too long for the tokenizer; this part is lost: "{truncated}" (of "{prompt[:40]}…")'


def truncated_text(tokenizer: Tokenizer, prompt: str) -> str:
    """Decode the end of a prompt that does not fit into the tokenizer's maximum, or ""."""
    tokens = tokenizer(prompt)["input_ids"]
    # the last token is the end mark, which the cut prompt has too
    return tokenizer.decode(tokens[tokenizer.model_max_length - 1 : -1]).strip()
