"""Learned words: their vectors train, alone (textual inversion) or with the networks (pivotal tuning).

Textual inversion is of Gal et al. 2022 (arXiv 2208.01618), pivotal tuning of Roich et al. 2021 (arXiv 2106.05744).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import nn

from dreambooth.data import rare_words
from dreambooth.models import tokenizers
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paddle import Tensor

    from dreambooth.config.concept_sections import SubjectSettings
    from dreambooth.config.sections import WordSettings
    from dreambooth.models.family.base import Family
    from dreambooth.models.tokenizers import Reader
    from dreambooth.system.types import Arrays

_FLAG = "--learn_identifier"


def learn(family: Family, settings: WordSettings, subjects: Sequence[SubjectSettings]) -> None:
    """Give the family the new words of the subjects' prompts, where there are to be any."""
    if not settings.learn_identifier:
        return
    if not family.facts.text_encoders:
        raise BadInput(f"{_FLAG}: T5, which this model reads prompts by, takes no new words; leave it out")
    tokenizer, readers = family.tokenizers[0], tokenizers.readers(family.pipeline, family.facts)
    starts = {}
    for subject in subjects:
        [word] = subject.new_words
        if word in tokenizer.get_vocab():
            raise BadInput(f"{_FLAG}: the model has {word} already; write another name in --instance_prompt")
        start = settings.initializer_token or rare_words.class_words(subject.prompt, subject.class_prompt)
        if not start or tokenizer.tokenize(start) in ([], [tokenizer.unk_token]):
            named = f'"{start}" is no word of the model' if start else f'"{subject.prompt}" names no class'
            raise BadInput(f"{_FLAG}: {named}; give --initializer_token, the word that {word} is to begin as")
        starts[word] = tokenizers.meaning(readers, start)
    family.words = Words(readers, starts, settings.is_alone)


class Words(nn.Layer):
    """The vectors of new words, in place of their rows in the text encoders' tables; those may train too, or not."""

    def __init__(self, readers: Sequence[Reader], starts: Arrays, is_alone: bool) -> None:
        super().__init__()
        self.is_alone, self.widths = is_alone, tokenizers.widths(readers)
        tokens = tokenizers.add_words(readers, starts, _FLAG)
        for word, start in starts.items():
            vector = self.create_parameter([len(start)], dtype="float32")
            vector.set_value(start)
            self.add_parameter(word, vector)
        ends = np.cumsum(self.widths)
        for (_, text_encoder), of_words, width, end in zip(readers, tokens, self.widths, ends):
            replace = functools.partial(self._replace, of_words, slice(int(end - width), int(end)))
            text_encoder.get_input_embeddings().register_forward_post_hook(replace)

    def vectors(self) -> Arrays:
        """Return the vector [width of all text encoders] of each word."""
        return {word: vector.numpy() for word, vector in self.named_parameters()}

    def _replace(
        self, tokens: Mapping[str, int], own: slice, table: nn.Layer, inputs: Sequence[Tensor], rows: Tensor
    ) -> Tensor:
        """Replace the rows [prompts, tokens, width] of the words by the numbers that are those of a text encoder."""
        vectors = dict(self.named_parameters())
        for word, token in tokens.items():
            rows = paddle.where((inputs[0] == token).unsqueeze(-1), vectors[word][own].astype(rows.dtype), rows)
        return rows
