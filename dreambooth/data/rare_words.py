"""How rare words are to a tokenizer: what makes an identifier, and what is wrong with the one in a prompt.

The DreamBooth paper takes rare tokens of the vocabulary that decode to three or fewer letters, so that the model knows
nothing of them yet (Ruiz et al. 2023, section 3.2). A byte-pair vocabulary, as CLIP's, is in the order in which its
tokens were merged, which is that of their frequency, and so are the Latin words in a Chinese BERT's; their ends are
rare. Its Chinese characters are in the order of Unicode; what is common among them says the standard GB 2312, whose
first level holds the 3755 most used.
"""

import functools
import re
from dataclasses import dataclass

MOST_LETTERS = 3
RARE_SHARE = 0.2  # of the tokens that are in the order of their frequency, the last
WORD_END = "</w>"
LEVEL_TWO = 0xD8  # the first row of GB 2312 with characters of the second level
HAN = r"\u3400-\u9fff\uf900-\ufaff"
WORDS = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
# words of a prompt that name neither a subject nor a class
FILLERS = set("一张个只的幅这那我你他她它们照片图画像")
FILLERS |= {"a", "an", "the", "of", "one", "this", "that", "my", "your", "his", "her", "our", "their"}
FILLERS |= {"photo", "picture", "image", "painting", "drawing"}


@dataclass(frozen=True)
class Candidate:
    """A token that could be an identifier."""

    word: str
    token: int


class RareWords:
    """What is rare to one tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.byte_pairs = hasattr(tokenizer, "bpe_ranks")
        self.vocabulary = tokenizer.encoder if self.byte_pairs else tokenizer.vocab.token_to_idx

    @functools.cached_property
    def _first_rare(self):
        """The number of the first token that is rare, of those in the order of their frequency."""
        ordered = self.vocabulary if self.byte_pairs else [word for word in self.vocabulary if _is_latin(word)]
        numbers = sorted(self.vocabulary[word] for word in ordered)
        return numbers[int((1 - RARE_SHARE) * len(numbers))] if numbers else len(self.vocabulary)

    def _pieces(self, word):
        """The tokens that a word is to the tokenizer, as people read them."""
        return [each.replace(WORD_END, "").removeprefix("##") for each in self.tokenizer.tokenize(word)]

    def is_rare(self, word):
        """Whether a word is one token, and that one is rare."""
        tokens = self.tokenizer.tokenize(word)
        if len(tokens) != 1 or tokens[0] == self.tokenizer.unk_token:
            return False
        if not word.isascii() and not self.byte_pairs:
            return is_uncommon_character(word)
        return self.tokenizer.convert_tokens_to_ids(tokens[0]) >= self._first_rare

    def candidates(self):
        """All words that could be an identifier, the rarest first: rare, and up to three letters that come out again
        as they went in. What only begins or goes on a longer word is none."""
        found = []
        for token, number in self.vocabulary.items():
            word = token.removesuffix(WORD_END)
            whole = token.endswith(WORD_END) or not self.byte_pairs
            readable = _is_latin(word) or re.fullmatch(f"[{HAN}]", word)
            if whole and readable and len(word) <= MOST_LETTERS and word not in FILLERS and self._is_decodable(word):
                found.append(Candidate(word, number))
        return sorted(found, key=lambda each: -each.token)

    def _is_decodable(self, word):
        """Whether a word is rare, and comes out of the tokenizer as it went in."""
        return self.is_rare(word) and self.tokenizer.convert_tokens_to_string(self._pieces(word)).strip() == word

    def problems(self, instance_prompt, class_prompt=None):
        """What is wrong with the identifier in a prompt, as sentences. It is looked for among the words that the class
        prompt has not, or, without one, among all that are no fillers."""
        words, of_class = WORDS.findall(instance_prompt.lower()), WORDS.findall((class_prompt or "").lower())
        own = [word for word in words if word not in FILLERS and word not in of_class]
        rare = [word for word in own if self.is_rare(word)]
        broken = [word for word in own if len(self.tokenizer.tokenize(word)) > 1]
        found = (rare or broken or own or [None])[0]
        lists = "python -m dreambooth.identifier lists rare words"
        if found is None:
            yield f'"{instance_prompt}" has no identifier, a rare word that names the subject; {lists}'
        elif not rare and broken:
            parts = " + ".join(self._pieces(found))
            yield f'"{found}" is no word to this model: it reads {parts}, which it knows already; {lists}'
        elif not rare:
            yield f'no word of "{instance_prompt}" is rare to this model, which knows them all already; {lists}'
        missing = [word for word in of_class if word not in words and word not in FILLERS]
        if missing:
            yield f'the class prompt\'s "{missing[-1]}" is missing from "{instance_prompt}": say what the subject is'
        elif not class_prompt and found and not [word for word in own if word != found]:
            yield f'"{instance_prompt}" does not say what the subject is: add a class word, as dog in "sks dog"'


def _is_latin(word):
    return word.isascii() and word.isalpha()


def is_uncommon_character(character):
    """Whether a Chinese character is not among the 3755 most used, those of the first level of GB 2312."""
    try:
        return character.encode("gb2312")[0] >= LEVEL_TWO
    except UnicodeEncodeError:
        return True
