"""The small model's tokenizer: each known word is one token, and every other text has a spelling."""

import pytest
from support.commands import ROOT, python

from miniworld import dataset, networks, things, tokenizer, world

CAPTIONED = {
    *("a", "an", "photo", "picture", "of", "plain", "hat", "with", "and"),
    *world.CLASSES,
    *things.COLOURS,
    *world.PATTERNS,
    *things.MARKS,
    *(word for scene in world.SCENES for word in scene.split()),
}
RARE, OTHERS = tokenizer.RARE.split(), tokenizer.OTHERS.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer") / "made"


@pytest.fixture(scope="module")
def made(folder):
    return tokenizer.make(folder, seed=0, captions=dataset.CAPTIONS)


@pytest.fixture(scope="module")
def captions():
    shown = [function(1, number) for number in range(2000) for function in (world.thing, world.stranger)]
    return sorted({world.caption(*thing, 1, number) for number, thing in enumerate(shown)})


def numbers(tokens, text):
    """Return the tokens of a text without the special tokens around it."""
    first, *middle, last = tokens(text).input_ids
    assert (first, last) == (tokens.bos_token_id, tokens.eos_token_id)
    return middle


def test_each_known_word_is_one_token_and_no_two_are_the_same(made):
    known = {*CAPTIONED, *RARE, *OTHERS}
    spelled = {word: numbers(made, word) for word in known}
    assert {word: each for word, each in spelled.items() if len(each) != 1} == {}
    assert len({number for [number] in spelled.values()}) == len(known)


def test_the_rare_words_are_rare_and_known_once(captions):
    met = {word for caption in captions for word in caption.split()}
    assert met <= CAPTIONED and not met & {*RARE}
    assert "sks" in RARE and len({*RARE}) == len(RARE) and not {*RARE} & {*OTHERS, *CAPTIONED}


def test_a_rare_word_in_a_prompt_is_one_more_token(made):
    plain, named = numbers(made, "a photo of a dog"), numbers(made, "a photo of sks dog")
    [rare] = numbers(made, "sks")
    assert named == [*plain[:3], rare, plain[-1]]


def test_each_caption_has_a_token_for_each_word_and_decodes_to_itself(made, captions):
    for caption in captions:
        spelled = numbers(made, caption)
        assert len(spelled) == len(caption.split()) <= networks.TOKENS - 2
        assert made.decode(spelled) == caption


def test_the_end_token_has_the_highest_number_and_is_the_padding(made):
    """The text tower finds the end of a text by the highest number."""
    assert made.eos_token_id == len(made) - 1 == max(made.get_vocab().values())
    assert made.pad_token_id == made.eos_token_id and made.bos_token_id == len(made) - 2
    assert sorted(made.get_vocab().values()) == list(range(len(made)))
    padded = made("a dog", padding="max_length", max_length=networks.TOKENS, truncation=True).input_ids
    assert len(padded) == networks.TOKENS and padded[3:] == [made.eos_token_id] * (networks.TOKENS - 3)


def test_a_text_that_is_too_long_ends_with_the_end_token(made):
    settings = dict(padding="max_length", max_length=networks.TOKENS, truncation=True)
    cut, whole = made("dog " * 60, **settings).input_ids, made("dog " * (networks.TOKENS - 2), **settings).input_ids
    assert cut == whole and len(cut) == networks.TOKENS and cut[-1] == made.eos_token_id
    assert made.model_max_length == networks.TOKENS


@pytest.mark.parametrize(
    "text",
    [
        "a zebra beneath the xylophone, is it?",
        "dogs doggedly hatless",
        "café naïve ærø",
        "雪地上的狗",
        "☃ 🙂 §",
        "пёс на снегу",
        "0 1 2 - # %",
    ],
)
def test_unknown_words_and_letters_are_spelled_and_decode_to_themselves(made, text):
    spelled = numbers(made, text)
    assert made.decode(spelled) == text
    assert made.eos_token_id not in spelled  # the token of an unknown piece


def test_capitals_do_not_count(made):
    assert numbers(made, "A Photo of SKS dog") == numbers(made, "a photo of sks dog")


def test_a_loaded_tokenizer_is_the_same(made, folder, captions):
    from ppdiffusers.transformers import CLIPTokenizer

    loaded = CLIPTokenizer.from_pretrained(str(folder))
    assert loaded.get_vocab() == made.get_vocab() and loaded.model_max_length == networks.TOKENS
    for text in (*captions[:200], *RARE, "a zebra beneath the xylophone", "雪地上的狗"):
        assert loaded(text).input_ids == made(text).input_ids
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(loaded, name) == getattr(made, name)


MERGES = "from miniworld import tokenizer; print(tokenizer.learn_merges(tokenizer.count_words(3, captions=300)))"


def test_the_merges_depend_only_on_the_seed_in_every_process():
    """The order of a set of words differs between processes."""
    here = tokenizer.learn_merges(tokenizer.count_words(3, captions=300))
    for order in ("1", "2"):
        done = python("-c", MERGES, PYTHONHASHSEED=order, PYTHONPATH=str(ROOT))
        assert done.stdout == f"{here}\n", done.stderr
    assert tokenizer.learn_merges(tokenizer.count_words(4, captions=300)) != here


def test_the_most_frequent_neighbours_merge_first():
    merges = tokenizer.learn_merges({"ab": 1, "cab": 2, "cat": 4})
    assert merges[:2] == [("c", "a"), ("ca", "t</w>")]
    assert {"ab</w>", "cab</w>", "cat</w>"} <= {"".join(pair) for pair in merges}
    assert tokenizer.learn_merges({"a": 3}) == []


def test_a_pair_that_overlaps_itself_merges_from_the_left():
    assert tokenizer.merge_pair(["a", "a", "a"], ("a", "a")) == ["aa", "a"]
    assert tokenizer.merge_pair(["b", "a", "b", "a"], ("b", "a")) == ["ba", "ba"]
