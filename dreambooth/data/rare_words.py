"""Words that are rare to a tokenizer: the choice of an identifier, and problems with the one in a prompt.

The DreamBooth paper takes rare tokens of the vocabulary that decode to three or fewer letters, since the model has no
strong meaning for them yet (Ruiz et al. 2023, section 3.2). A byte-pair vocabulary, as CLIP's, lists its tokens in the
order of their merges, which is that of their frequency; so does a Chinese BERT's for its Latin words. The end of the
list is rare, but for the English words that a Chinese text seldom has. Chinese characters are in the order of Unicode:
there the standard GB 2312 decides, whose second level holds the 3008 less used; it has no traditional variants.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreambooth.config.sections import NEW_WORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dreambooth.system.types import Tokenizer

_MOST_LETTERS = 3
_RARE_SHARE = 0.2  # of the tokens that are in the order of their frequency, the last
# marks of tokens: the end of a word in byte pairs, what goes on with one in BERT, its beginning in pieces of sentences
_WORD_END, _PART, _WORD_START = "</w>", "##", "▁"
_LEVEL_TWO = 0xD8  # the first row of GB 2312 with characters of the second level
_COMMON = """
ace act ad add ads age ago aid aim air all am an and ant any ape app apt arc are ark arm art as ash ask at ate
axe bad bag ban bar bat bay be bed bee beg bet bid big bin bit bow box boy bud bug bun bus but buy by bye cab
can cap car cat cop cow cry cub cup cut dad dam day den did die dig dim dip do doc dog dot dry due dug ear eat
egg ego elf end era eve eye fan far fat fax fed fee few fig fin fit fix fly fog for fox fun fur gap gas gay gem
get gin go god got gum gun gut guy gym had ham has hat hay he hen her hey hi him hip his hit hop hot how hub hug
hut ice if ill in ink inn is it its ivy jam jar jaw jay jet job jog joy jug key kid kin kit lab lad lap law lay
leg let lid lie lip log lot low mad man map mat may me men met mix mob mom mud mug my nap net new nil no nor not
now nun nut oak odd of off oh oil ok old on one or orc ore our out owe owl own pad pan pat paw pay pea pen pet
pie pig pin pit pop pot pro pub pup put rag ram ran rap rat raw ray red rib rid rig rim rip rob rod rot row rub
rug run rye sad sap sat saw say sea see set sex she shy sin sir sit six ski sky sly so sob son spa spy sub sue
sum sun tag tan tap tar tax tea ten the tie tin tip to toe ton too top toy try tub two up us use van vet via vow
war was wax way we web wed wet who why wig win wit won wow yes yet you zen zip zoo
"""  # English words of up to three letters
_ENGLISH = set(_COMMON.split())
_OFFENSIVE = {"ass", "cum", "fag", "fck", "fuk", "jap", "jew", "kkk", "neg", "nig", "sht", "tit", "wtf"}
_OFFENSIVE |= set("婊婢嫖娼尻佞孬倭丐妾姘")
# characters of the second level that are everyday words: animals, plants, food, things
_EVERYDAY = set("橘柚桦榕榛桉楠荠鲨鳄鱿鳗鲷鲑鲈鲟鲫鳍蛏貂獾鼬鼹麝獐狍獒鹭鸢雉隼枭蟒粽馍馕铠铐镯钗戟钺箸筝笙箫裘氅")
_HAN = r"\u3400-\u9fff\uf900-\ufaff"
HAS_HAN = re.compile(f"[{_HAN}]")
_WORDS = re.compile(rf"{NEW_WORD.pattern}|[{_HAN}]|[^\W_{_HAN}]+")
# words of a prompt that name neither a subject nor a class
_FILLERS = set("一张个只的幅这那我你他她它们照片图画像在上里下中")
_FILLERS |= {"a", "an", "the", "of", "one", "this", "that", "my", "your", "his", "her", "our", "their"}
_FILLERS |= {"photo", "picture", "image", "painting", "drawing", "in", "on", "with"}
# words behind which a subject without another word before it has an article
_BEFORE_ARTICLES = {"of", "with", "and", "or", "in", "on", "at", "by", "near", "beside", "behind", "from", "for", "is"}
_REMEDY = "python -m dreambooth.identifier lists rare words"


@dataclass(frozen=True)
class Candidate:
    """A token that could be an identifier."""

    word: str
    token: int


class RareWords:
    """The rare words of a tokenizer: a byte-pair tokenizer, a BERT's, or one of pieces of sentences, as T5's.

    With others, as those of Stable Diffusion XL, a word is rare if it is so in each; the numbers are the first one's.
    """

    def __init__(self, tokenizer: Tokenizer, *others: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._others = [RareWords(each) for each in others]
        self._is_byte_pair = hasattr(tokenizer, "bpe_ranks")
        self._has_pieces = hasattr(tokenizer, "sp_model")
        self._vocabulary: dict[str, int] = tokenizer.encoder if self._is_byte_pair else tokenizer.get_vocab()

    @functools.cached_property
    def _first_rare(self) -> int:
        """The first rare token in the order of frequency."""
        tokens, every = self._vocabulary, self._is_byte_pair
        ordered = [each for each in tokens if every or self._is_whole(each) and _is_latin(_without_marks(each))]
        numbers = sorted(tokens[token] for token in ordered)
        return numbers[int((1 - _RARE_SHARE) * len(numbers))] if numbers else len(self._vocabulary)

    def _pieces(self, word: str) -> list[str]:
        """Return the tokens of a word without the tokenizer's marks."""
        return [_without_marks(each) for each in self.tokenizer.tokenize(word)]

    def is_rare(self, word: str) -> bool:
        """Check whether a word is a single token, and a rare one."""
        tokens = self.tokenizer.tokenize(word)
        if len(tokens) != 1 or tokens[0] == self.tokenizer.unk_token:
            return False
        if not all(other.is_rare(word) for other in self._others):
            return False
        if word.lower() in _ENGLISH:
            return False
        if not word.isascii() and not self._is_byte_pair:
            return word not in _EVERYDAY and _is_uncommon_character(word)
        number = self.tokenizer.convert_tokens_to_ids(tokens[0])
        return number is not None and number >= self._first_rare  # None: the vocabulary lacks even the unknown word

    def candidates(self) -> list[Candidate]:
        """Return all words that could be an identifier, the rarest first.

        Each is a rare token of up to three letters that decodes to itself. Tokens that only begin or continue a longer
        word are left out.
        """
        found = []
        for token, number in self._vocabulary.items():
            word = _without_marks(token)
            whole = self._is_whole(token)
            readable = _is_latin(word) or re.fullmatch(f"[{_HAN}]", word)
            refused = word in _FILLERS or word in _OFFENSIVE or word != word.lower()  # as prompts are read
            if whole and readable and len(word) <= _MOST_LETTERS and not refused and self._is_decodable(word):
                found.append(Candidate(word, number))
        return sorted(found, key=lambda each: -each.token)

    def _is_whole(self, token: str) -> bool:
        """Check whether a token is a word, and no part of one."""
        if self._is_byte_pair:
            return token.endswith(_WORD_END)
        return token.startswith(_WORD_START) if self._has_pieces else not token.startswith(_PART)

    def _is_decodable(self, word: str) -> bool:
        """Check whether a word is rare and decodes to itself."""
        return self.is_rare(word) and self.tokenizer.convert_tokens_to_string(self._pieces(word)).strip() == word

    def _identifier(self, own: Sequence[str], prompt: str) -> str | None:
        """Return the rare word among some words of a prompt, a Latin one first.

        Rare Chinese characters beside each other are a word, as those of the parrot are, and no identifier.
        """
        rare = [word for word in own if self.is_rare(word)]
        runs = itertools.groupby(prompt, lambda letter: bool(HAS_HAN.match(letter)) and self.is_rare(letter))
        joined = {letter for is_rare, run in runs if is_rare and len(letters := list(run)) > 1 for letter in letters}
        alone = [word for word in rare if word not in joined]
        return next((word for word in alone if not HAS_HAN.match(word)), alone[0] if alone else None)

    def identifier(self, prompt: str, class_prompt: str | None = None) -> str | None:
        """Return the identifier of a prompt in small letters; None if it has none."""
        return self._identifier(_own_words(prompt, class_prompt), prompt)

    def description(self, prompt: str) -> str:
        """Return what the words of a prompt are taken for: the identifier with its token, and the class."""
        own = _own_words(prompt)
        found = self._identifier(own, prompt)
        if found is None:
            return f"identifier: none; other words: {' '.join(own) or 'none'}"
        [token] = self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(found))
        others = " ".join(word for word in own if word != found)
        return f"identifier: {found} (token {token}, rare); class: {others or 'none'}"

    def _splits(self, own: Sequence[str]) -> Iterator[str]:
        """Yield why a word that a tokenizer splits is none; of "sks dog", that of sks, which the first has whole."""
        for word in sorted(own, key=lambda word: len(self._pieces(word)) > 1):
            for which, each in zip(("", "second "), (self, *self._others)):
                if len(pieces := each._pieces(word)) > 1:  # noqa: SLF001  of the same class
                    split = f"the {which}tokenizer splits it into {' + '.join(pieces)}"
                    yield f'"{word}" is not one: {split}, which have a meaning; '

    def problems(self, instance_prompt: str, class_prompt: str | None = None) -> Iterator[str]:
        """Yield a sentence for each problem with the identifier of a prompt."""
        words, class_words = _WORDS.findall(instance_prompt.lower()), _WORDS.findall((class_prompt or "").lower())
        own = _own_words(instance_prompt, class_prompt)
        found = self._identifier(own, instance_prompt)
        if spells_out(self.tokenizer, instance_prompt):
            yield from spelled_out(self.tokenizer, [instance_prompt])
        elif found is None and (rare := [word for word in class_words if word in words and self.is_rare(word)]):
            yield f'the class prompt "{class_prompt}" has "{rare[0]}", which is to name the subject alone; take it out'
        elif found is None:
            lacking = f'"{instance_prompt}" has no identifier, a rare word before the class that names the subject; '
            yield f"{lacking}{next(self._splits(own), '')}{_REMEDY}"
        of_class = [word for word in class_words if word not in _FILLERS]
        if spells_out(self.tokenizer, class_prompt or ""):
            return  # which has its own sentence
        if of_class and not set(of_class) & set(words):
            yield f'"{instance_prompt}" lacks "{of_class[-1]}" of the class prompt; add it, so that it names the class'
        elif not class_prompt and found and own == [found]:
            yield f'"{instance_prompt}" does not name the class of the subject; add it, as dog in "sks dog"'


def _without_marks(token: str) -> str:
    return token.replace(_WORD_END, "").removeprefix(_PART).removeprefix(_WORD_START)


def _own_words(prompt: str, class_prompt: str | None = None) -> list[str]:
    """List the words of a prompt, in small letters, that are no fillers and that the class prompt lacks."""
    others = {*_FILLERS, *_WORDS.findall((class_prompt or "").lower())}
    return [word for word in _WORDS.findall(prompt.lower()) if word not in others]


def class_words(prompt: str, class_prompt: str | None) -> str:
    """Return the words of the class: those of its prompt, or else those that follow the new word; "" without any."""
    if class_prompt:
        return _joined(_nouns(class_prompt))
    *_, behind = NEW_WORD.split(prompt)
    words = _WORDS.findall(behind.lower())
    return _joined(list(itertools.takewhile(lambda word: word not in _FILLERS, words)))


def _nouns(class_prompt: str) -> list[str]:
    """List the words of a class's prompt that name it: of "a portrait of a man, high quality", "man"."""
    return _own_words(re.split(r"\bof\b", class_prompt.split(",")[0], flags=re.IGNORECASE)[-1])


def _joined(words: list[str]) -> str:
    """Join words; Chinese has no spaces between them, and 相 is of 相片, a photo."""
    if any(HAS_HAN.search(word) for word in words):
        return "".join(word for word in words if word != "相")
    return " ".join(words)


def without(prompt: str, identifier: str | None) -> str:
    """Leave a word that has no meaning to CLIP out of a prompt."""
    if not has(prompt, identifier):
        return prompt
    kept = re.sub(f"{_as_a_word(str(identifier))}-?", "", prompt, flags=re.IGNORECASE)
    return kept if HAS_HAN.search(prompt) else " ".join(kept.split())


def has(prompt: str, identifier: str | None) -> bool:
    """Check whether a word is in a prompt; Chinese has no spaces around it."""
    return bool(identifier and re.search(_as_a_word(identifier), prompt, re.IGNORECASE))


def _as_a_word(identifier: str) -> str:
    """Return the pattern of an identifier that is no part of a longer word."""
    edges = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])" if identifier.isascii() else "{}"
    return edges.format(re.escape(identifier))


def of_class(caption: str, identifier: str, class_prompt: str) -> str:
    """Turn a caption of a subject into one of any member of its class, by leaving out the identifier.

    Of "sks dog in snow" this makes "a dog in snow", of "my sks dog" "my dog". Where the caption does not name the
    class, the class takes the identifier's place.
    """
    nouns = _nouns(class_prompt)
    pattern = _as_a_word(identifier)
    if HAS_HAN.search(caption):
        noun = _joined(nouns)
        place = "" if noun in caption else noun
        return re.sub(pattern, place, caption, flags=re.IGNORECASE).strip() or class_prompt
    words, noun = _WORDS.findall(caption.lower()), " ".join(nouns)
    plurals = {f"{word}s" for word in nouns} | {f"{word}es" for word in nouns} | {f"{word[:-1]}ies" for word in nouns}
    is_named = bool(nouns) and (set(nouns) <= set(words) or not plurals.isdisjoint(words))

    def replaced(found: re.Match[str]) -> str:
        before, follower = _WORDS.findall(caption[: found.start()].lower()), found["next"] or ""
        stands_alone = not follower or follower.lower() in _BEFORE_ARTICLES | _FILLERS
        kept = " ".join(filter(None, [noun if stands_alone or not is_named else "", follower]))
        takes_article = found["article"] or not before or before[-1] in _BEFORE_ARTICLES or stands_alone
        if not kept or not takes_article or follower.lower() in plurals or follower.isdigit():
            return kept
        if not found["article"] and before and before[-1] in _FILLERS - _BEFORE_ARTICLES:
            return kept  # the, my
        return f"{'an' if kept[0].lower() in 'aeiou' else 'a'} {kept}"

    whole = rf"(?P<article>\b(?:a|an)\s+)?{pattern}-?\s*(?P<next>[^\W_]+)?"
    changed = " ".join(re.sub(whole, replaced, caption, flags=re.IGNORECASE).split())
    return changed.lstrip(" ,.;:-") or class_prompt


def spells_out(tokenizer: Tokenizer, text: str) -> bool:
    """Check whether the vocabulary lacks most of a text's Chinese characters, and has at most their bytes."""
    characters = re.findall(f"[{_HAN}]", text)
    pieces = [tokenizer.tokenize(each) for each in characters]
    lacking = [each for each in pieces if len(each) > 1 or each == [tokenizer.unk_token]]
    return len(lacking) > len(characters) / 2


def spelled_out(tokenizer: Tokenizer, prompts: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each Chinese prompt of a model that has no Chinese."""
    for prompt in prompts:
        if spells_out(tokenizer, prompt):
            yield (
                f"\"{prompt}\" has Chinese characters that are not in the model's vocabulary, so it can't follow the"
                " prompt; take a Chinese model, such as Taiyi, or an English prompt"
            )


def _is_latin(word: str) -> bool:
    return word.isascii() and word.isalpha()


def _is_uncommon_character(character: str) -> bool:
    """Check whether a Chinese character is of the second level of GB 2312.

    The 3755 of the first level are the most used. A character of neither is a variant of one of them, as a rule.
    """
    try:
        return character.encode("gb2312")[0] >= _LEVEL_TWO
    except UnicodeEncodeError:
        return False
