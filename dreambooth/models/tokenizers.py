"""Tokenizers: their length, another one, the end of a prompt that does not fit, and words that they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dreambooth.system.types import Array, Arrays, Network, Tokenizer


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


def add_words(tokenizer: Tokenizer, text_encoder: Network, words: Arrays, flag: str) -> dict[str, int]:
    """Give a model words with their vectors [width], and return their tokens; a word that is there gets the vector.

    The text encoder's table of vectors has a row for each token of the tokenizer, and may have more.
    """
    table = text_encoder.get_input_embeddings()
    rows = table.weight.numpy()
    for word, vector in words.items():
        if vector.shape != rows.shape[1:]:
            count = f"{vector.size} numbers, and this one's words have {len(rows[0])}"
            raise BadInput(f"{flag}: {word} is a word of another model; it has {count}")
    tokenizer.add_tokens([word for word in words if word not in tokenizer.get_vocab()])
    tokens = {word: int(tokenizer.convert_tokens_to_ids(word)) for word in words}
    if more := max(0, *(token + 1 - len(rows) for token in tokens.values())):
        rows = np.concatenate([rows, np.zeros((more, rows.shape[1]), rows.dtype)])
        stop = table.weight.stop_gradient
        table.weight = table.create_parameter(rows.shape, dtype=table.weight.dtype)
        table.weight.stop_gradient = stop
        table._num_embeddings = text_encoder.config.vocab_size = len(rows)  # noqa: SLF001
    for word, token in tokens.items():
        rows[token] = words[word]
    table.weight.set_value(rows)
    return tokens


def meaning(tokenizer: Tokenizer, text_encoder: Network, text: str) -> Array:
    """Return the mean of the vectors [width] of a text's tokens."""
    tokens = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    return text_encoder.get_input_embeddings().weight.numpy()[tokens].mean(0)
