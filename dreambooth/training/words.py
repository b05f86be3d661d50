"""Learned words: their vectors train, alone (textual inversion) or with the networks (pivotal tuning).

Textual inversion is of Gal et al. 2022 (arXiv 2208.01618), pivotal tuning of Roich et al. 2021 (arXiv 2106.05744).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle
from paddle import nn

from dreambooth.data import rare_words
from dreambooth.models import tokenizers
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor

    from dreambooth.config.concept_sections import SubjectSettings
    from dreambooth.config.sections import WordSettings
    from dreambooth.models.families.base import Family
    from dreambooth.system.types import Arrays, Network, Tokenizer

_FLAG = "--learn_identifier"


def learn(family: Family, settings: WordSettings, subjects: Sequence[SubjectSettings]) -> None:
    """Give the family the new words of the subjects' prompts, where there are to be any."""
    if not settings.learn_identifier:
        return
    tokenizer, text_encoder = family.tokenizer, getattr(family.pipeline, family.facts.text_encoders[0])
    starts = {}
    for subject in subjects:
        [word] = subject.new_words
        if word in tokenizer.get_vocab():
            raise BadInput(f"{_FLAG}: the model has {word} already; write another name in --instance_prompt")
        start = settings.initializer_token or rare_words.class_words(subject.prompt, subject.class_prompt)
        if not start or tokenizer.tokenize(start) in ([], [tokenizer.unk_token]):
            named = f'"{start}" is no word of the model' if start else f'"{subject.prompt}" names no class'
            raise BadInput(f"{_FLAG}: {named}; give --initializer_token, the word that {word} is to begin as")
        starts[word] = tokenizers.meaning(tokenizer, text_encoder, start)
    family.words = Words(tokenizer, text_encoder, starts, settings.is_alone)


class Words(nn.Layer):
    """The vectors of new words, in place of their rows in a text encoder's table; that may train too, or not."""

    def __init__(self, tokenizer: Tokenizer, text_encoder: Network, starts: Arrays, is_alone: bool) -> None:
        super().__init__()
        self.is_alone = is_alone
        self._tokens = tokenizers.add_words(tokenizer, text_encoder, starts, _FLAG)
        for word, start in starts.items():
            vector = self.create_parameter([len(start)], dtype="float32")
            vector.set_value(start)
            self.add_parameter(word, vector)
        text_encoder.get_input_embeddings().register_forward_post_hook(self._replace)

    def vectors(self) -> Arrays:
        """Return the vector [width] of each word."""
        return {word: vector.numpy() for word, vector in self.named_parameters()}

    def _replace(self, table: nn.Layer, inputs: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Replace the rows [prompts, tokens, width] of the words."""
        vectors = dict(self.named_parameters())
        for word, token in self._tokens.items():
            rows = paddle.where((inputs[0] == token).unsqueeze(-1), vectors[word].astype(rows.dtype), rows)
        return rows
