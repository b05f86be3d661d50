"""Tokenizers: their length, another one, the end of a prompt that does not fit, and words that they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from paddle import Tensor

    from dreambooth.models.family.base import Family
    from dreambooth.models.family.facts import FamilyFacts
    from dreambooth.system.types import Array, Arrays, Network, Pipeline, Tokenizer

    Reader = tuple[Tokenizer, Network]  # a tokenizer, and the text encoder that takes its tokens

_OLD_END = 2  # for which the library takes the highest token as a prompt's end


def limit_tokens(tokenizer: Tokenizer, text_encoder: Network) -> None:
    """Limit a tokenizer to as many tokens as the text encoder has positions.

    The maximum of a tokenizer without one is 1e30, with which it fails.
    """
    limit_length(tokenizer, text_encoder.config.max_position_embeddings)


def limit_length(tokenizer: Tokenizer, most: int) -> None:
    """Limit a tokenizer to a number of tokens; the limit is saved with it."""
    if tokenizer.model_max_length > most:
        tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = most


def readers(pipeline: Pipeline, facts: FamilyFacts) -> list[Reader]:
    """List the tokenizers of a model's prompts, each with its text encoder."""
    parts = zip(facts.tokenizers, facts.text_encoders)
    return [(getattr(pipeline, tokenizer), getattr(pipeline, encoder)) for tokenizer, encoder in parts]


def tokens(tokenizer: Tokenizer, prompts: Iterable[str], length: int | None = None) -> Tensor:
    """Return the tokens [prompts, length] of prompts, cut or padded to a length: the tokenizer's own by default."""
    most = length or tokenizer.model_max_length
    found = tokenizer(list(prompts), padding="max_length", max_length=most, truncation=True, return_tensors="pd")
    return found.input_ids


def limit_alike(readers: Sequence[Reader]) -> None:
    """Limit a model's tokenizers to as many tokens as the shortest has, since their encodings lie beside each other."""
    for tokenizer, _ in readers:
        limit_length(tokenizer, min(each.model_max_length for each, _ in readers))


def encode_by_clips(readers: Sequence[Reader], prompts: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Encode prompts by CLIPs: the hidden states before the last layer of each, and the whole prompt's vector."""
    encoded = [encoder(tokens(tokenizer, prompts), output_hidden_states=True) for tokenizer, encoder in readers]
    return [each.hidden_states[-2] for each in encoded], [each[0] for each in encoded]


def another_tokenizer(name: str, own: Tokenizer, text_encoder: Network) -> Tokenizer:
    """Load another tokenizer in place of the model's own, of the same class."""
    try:
        tokenizer = type(own).from_pretrained(name)
    except Exception as error:
        raise BadInput(f"--tokenizer_name {name}: it can't be loaded ({error})") from error
    limit_tokens(tokenizer, text_encoder)
    return tokenizer


def truncations(family: Family, prompts: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each prompt that is too long for the model."""
    for prompt in dict.fromkeys(prompts):
        cut, lost = truncated(family, prompt)
        start = f'(of "{prompt[:40]}…")'
        if cut and cut != lost:
            yield f'a prompt is too long for the CLIPs; this part is for T5 alone: "{cut}" {start}'
        if lost:
            yield f'a prompt is too long for the tokenizer; this part is lost: "{lost}" {start}'


def truncated(family: Family, prompt: str) -> tuple[str, str]:
    """Decode the end of a prompt that the first tokenizers cut, and the one that none reads; "" where all fits."""
    cut = max((_end(each, prompt, each.model_max_length) for each in family.tokenizers), key=len)
    of_t5 = [part for part in family.facts.lackable if part in family.facts.without_weights]
    if not of_t5:
        return cut, cut
    return cut, cut and _end(getattr(family.pipeline, of_t5[0]), prompt, family.facts.t5_tokens)


def _end(tokenizer: Tokenizer, prompt: str, most: int) -> str:
    """Decode the end of a prompt that does not fit into so many tokens."""
    # the last token is the end mark, which the cut prompt has too
    return tokenizer.decode(tokenizer(prompt)["input_ids"][most - 1 : -1]).strip()


def widths(readers: Sequence[Reader]) -> list[int]:
    """Return how many numbers of a word's vector each text encoder takes, in order."""
    return [text_encoder.get_input_embeddings().weight.shape[1] for _, text_encoder in readers]


def add_words(readers: Sequence[Reader], words: Arrays, flag: str) -> list[dict[str, int]]:
    """Give a model words with their vectors [width of all], and return their tokens in each tokenizer.

    A word that is there gets the vector. A text encoder's table has a row for each token of the tokenizer, or more.
    """
    counts = widths(readers)
    for word, vector in words.items():
        if vector.shape != (sum(counts),):
            count = f"{vector.size} numbers, and this one's words have {sum(counts)}"
            raise BadInput(f"{flag}: {word} is a word of another model; it has {count}")
    ends = np.cumsum(counts)
    parts = [{word: vector[end - count : end] for word, vector in words.items()} for count, end in zip(counts, ends)]
    return [_add_words(*reader, part) for reader, part in zip(readers, parts)]


def _add_words(tokenizer: Tokenizer, text_encoder: Network, words: Arrays) -> dict[str, int]:
    table = text_encoder.get_input_embeddings()
    rows = table.weight.numpy()
    _know_end(tokenizer, text_encoder)
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


def _know_end(tokenizer: Tokenizer, text_encoder: Network) -> None:
    """Let the library find the end of a prompt by its mark, since new words have higher tokens."""
    if getattr(text_encoder.config, "eos_token_id", None) == _OLD_END:
        for layer in (text_encoder.config, *text_encoder.sublayers()):
            if getattr(layer, "eos_token_id", None) == _OLD_END:
                layer.eos_token_id = int(tokenizer.eos_token_id)


def meaning(readers: Sequence[Reader], text: str) -> Array:
    """Return the means of the vectors [width of all] of a text's tokens."""
    found = []
    for tokenizer, text_encoder in readers:
        tokens = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        found.append(text_encoder.get_input_embeddings().weight.numpy()[tokens].mean(0))
    return np.concatenate(found)
