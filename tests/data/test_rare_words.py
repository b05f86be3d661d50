"""Rare words of a tokenizer, and problems with an identifier."""

import json
import re

import pytest
from support.commands import ROOT

from dreambooth.data import rare_words
from dreambooth.data.rare_words import RareWords, spells_out
from miniworld.tokenizer import byte_alphabet

COMMON = ["the", "dog", "cat", "photo", "of", "in", "red", "on", "sn", "ow", "snow", "bi", "g", "mountain"]
RARE = ["sks", "zwx", "ohwx", "ö"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A byte-pair vocabulary whose last words are rare."""
    from ppdiffusers.transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = byte_alphabet()
    words, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []

    def learn(word):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = [parts[0] + parts[1]]
            if parts[0] not in words:
                words.append(parts[0])

    for word in [*COMMON, *(f"w{number}" for number in range(100, 300)), *RARE[:3]]:
        learn(word)
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return RareWords(CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """As Taiyi's: characters in Unicode's order, then Latin words in that of their frequency."""
    from ppdiffusers.transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    latin = ["the", "google", "dog", "app", "net", "cat", "sun", "car", "led", "zqz"]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"一只在地张照片狗猫的雪魍齉鹦鹉蜥蜴橘婊",
        *latin,
        "##s",
        "##k",
        "s",
    ]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return RareWords(BertTokenizer(str(folder / "vocab.txt")))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """As T5's: pieces of sentences, those that begin a word with a mark."""
    import sentencepiece
    from ppdiffusers.transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    (folder / "sentences.txt").write_text(
        "a photo of the dog and the cat in the snow\n" * 50 + "zqz dog\nsks\nPVC\n" * 4
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "sentences.txt"), model_prefix=str(folder / "spiece"), vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, model_type="word", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return RareWords(T5Tokenizer(str(folder / "spiece.model"), extra_ids=0))


def words(candidates):
    return [each.word for each in candidates]


def test_rare_words_of_a_byte_pair_vocabulary_are_at_its_end(clip):
    assert clip.is_rare("sks") and clip.is_rare("zwx")
    assert not clip.is_rare("dog") and not clip.is_rare("the")
    assert not clip.is_rare("xyzzy")  # it is several tokens


def test_candidates_are_single_rare_tokens_of_up_to_three_letters(clip):
    found = words(clip.candidates())
    assert found[0] == "zwx" and "sks" in found
    assert "ohwx" not in found and "dog" not in found  # four letters; common
    assert not any(word.startswith("<") or not word.isalpha() for word in found)
    for word in found:
        assert len(clip.tokenizer.tokenize(word)) == 1
    numbers = [each.token for each in clip.candidates()]
    assert numbers == sorted(numbers, reverse=True)


def test_rare_words_of_a_chinese_vocabulary_are_late_latin_words_and_uncommon_characters(bert):
    assert bert.is_rare("魍") and not bert.is_rare("狗") and not bert.is_rare("龘")  # the last is no token
    assert bert.is_rare("zqz") and not bert.is_rare("the") and not bert.is_rare("dog")
    assert words(bert.candidates())[:1] == ["s"] and {"魍", "zqz"} <= set(words(bert.candidates()))
    assert not {"狗", "的", "the", "##s"} & set(words(bert.candidates()))


def test_a_word_of_two_tokenizers_is_rare_in_both(clip, bert):
    both = RareWords(bert.tokenizer, clip.tokenizer)
    assert bert.is_rare("zqz") and clip.is_rare("zwx") and not both.is_rare("zqz") and not both.is_rare("zwx")
    assert words(both.candidates()) == [] and words(RareWords(clip.tokenizer, clip.tokenizer).candidates())
    [problem] = both.problems("a photo of zqz dog", "a photo of a dog")
    assert '"zqz" is not one: the second tokenizer splits it into' in problem


def test_english_words_and_offensive_ones_are_no_candidates(bert, monkeypatch):
    monkeypatch.setattr(rare_words, "_RARE_SHARE", 1.0)
    assert {"zqz"} <= set(words(bert.candidates()))
    assert not bert.is_rare("dog") and not bert.is_rare("Dog")
    monkeypatch.setattr(rare_words, "_OFFENSIVE", {"zqz"})
    assert "zqz" not in words(bert.candidates()) and bert.is_rare("zqz")


def test_rare_words_of_a_vocabulary_of_pieces_are_its_late_words(pieces):
    assert words(pieces.candidates()) == ["zqz", "sks"] or words(pieces.candidates()) == ["sks", "zqz"]
    assert not pieces.is_rare("dog") and not pieces.is_rare("unknown")
    assert pieces.description("a photo of zqz dog").startswith("identifier: zqz (token ")
    assert list(pieces.problems("a photo of zqz dog", "a photo of a dog")) == []
    [problem] = pieces.problems("a photo of my dog", "a photo of a dog")
    assert "has no identifier" in problem


@pytest.mark.parametrize(
    "character, uncommon", [("狗", False), ("的", False), ("魍", True), ("這", False), ("龘", False)]
)
def test_common_characters_are_those_of_the_standard(character, uncommon):
    assert rare_words._is_uncommon_character(character) is uncommon


def assert_problem(rarity, prompt, of_class, complaint):
    found = list(rarity.problems(prompt, of_class))
    if complaint is None:
        assert not found
    else:
        assert any(complaint in each for each in found), found


@pytest.mark.parametrize(
    "prompt, of_class, complaint",
    [
        ("a photo of sks dog", "a photo of a dog", None),
        ("a photo of sks dog", None, None),
        ("A photo of a SKS dog in the snow", "a photo of a dog", None),
        ("a photo of xyzzy dog", "a photo of a dog", '"xyzzy" is not one: the tokenizer splits it into x + y + '),
        ("a photo of xyzzy dog", None, '"xyzzy" is not one'),
        ("a photo of the red dog", "a photo of a dog", "has no identifier"),
        ("a photo of a dog", "a photo of a dog", "has no identifier"),
        ("a photo of sks dog", "a photo of a sks dog", 'the class prompt "a photo of a sks dog" has "sks"'),
        ("a photo of sks dog", "一张狗的照片", None),
        ("a photo of sks", "a photo of a dog", 'lacks "dog"'),
        ("a photo of sks", None, "does not name the class"),
        ("sks", None, "does not name the class"),
    ],
)  # fmt: skip
def test_the_problems_of_a_prompt_are_named(clip, prompt, of_class, complaint):
    assert_problem(clip, prompt, of_class, complaint)


@pytest.mark.parametrize(
    "prompt, of_class, complaint",
    [
        ("一张魍狗的照片", "一张狗的照片", None),
        ("一张zqz狗的照片", None, None),
        ("一张sks狗的照片", "一张狗的照片", '"sks" is not one: the tokenizer splits it into s + k + s'),
        ("一张雪狗的照片", "一张狗的照片", "has no identifier"),
        ("一张魍的照片", "一张狗的照片", 'lacks "狗"'),
        ("一张鹦鹉的照片", None, "has no identifier"),
        ("一张蜥蜴的照片", None, "has no identifier"),
        ("一张橘猫的照片", None, "has no identifier"),
        ("一张zqz鹦鹉的照片", None, None),
    ],
)
def test_the_problems_of_a_chinese_prompt_are_named(bert, prompt, of_class, complaint):
    assert_problem(bert, prompt, of_class, complaint)


@pytest.mark.parametrize(
    "prompt, found",
    [("一张鹦鹉zqz的照片", "zqz"), ("一张魍狗zqz的照片", "zqz"), ("一张魍狗的照片", "魍"), ("一张鹦鹉的照片", "none")],
)
def test_a_latin_word_is_preferred_and_a_chinese_word_is_no_identifier(bert, prompt, found):
    assert re.match("identifier: (\\w+)", bert.description(prompt))[1] == found


def test_everyday_and_offensive_characters_are_no_candidates(bert):
    assert not {"橘", "婊"} & set(words(bert.candidates())) and "魍" in words(bert.candidates())


@pytest.mark.parametrize("of_class", ["a high quality photo of a dog", "a dog on the grass", "dog"])
def test_a_class_prompt_may_have_more_words(clip, of_class):
    assert list(clip.problems("a photo of sks dog", of_class)) == []


@pytest.mark.parametrize("prompt", ["a photo of a dog", "a photo of a red dog", "a photo of xyzzy", "a photo"])
def test_a_prompt_without_an_identifier_is_one_problem(clip, prompt):
    [problem] = clip.problems(prompt)
    assert problem.startswith(f'"{prompt}" has no identifier, a rare word before the class that names the subject;')
    assert problem.endswith("python -m dreambooth.identifier lists rare words")


def test_chinese_for_an_english_model_is_named(clip, bert):
    for prompt in ("一张sks狗的照片", "sks狗"):
        [problem] = clip.problems(prompt)
        assert "has Chinese characters that are not in the model's vocabulary" in problem
        assert not spells_out(bert.tokenizer, prompt)
    assert not spells_out(clip.tokenizer, "a photo of sks dog") and not spells_out(clip.tokenizer, "")


def test_sks_is_rare_in_the_embedded_model():
    from ppdiffusers.transformers import CLIPTokenizer

    own = RareWords(CLIPTokenizer.from_pretrained(str(ROOT / "miniworld/model/tokenizer")))
    assert not list(own.problems("a photo of sks dog", "a photo of a dog"))
    assert "sks" in words(own.candidates())


def test_a_vocabulary_without_words_has_no_rare_ones(tmp_path):
    from ppdiffusers.transformers import CLIPTokenizer

    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    words = RareWords(CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")))
    assert not words.is_rare("sks") and not words.candidates()


def test_the_identifier_is_left_out_as_a_word_and_not_as_a_part_of_one():
    assert rare_words.without("a photo of sks dog", "sks") == "a photo of dog"
    assert rare_words.without("sks sksdog sks", "sks") == "sksdog"
    assert rare_words.without("a photo of sks dog", None) == "a photo of sks dog"
    assert rare_words.without("一张vdf狗的照片", "vdf") == rare_words.without("一张魍狗的照片", "魍") == "一张狗的照片"
    assert rare_words.without("一张vdfx狗的照片", "vdf") == "一张vdfx狗的照片"


@pytest.mark.parametrize(
    "caption, identifier, expected",
    [
        ("an sks dog, and a sks owl", "sks", "a dog, and an owl"),
        ("sks dogs", "sks", "dogs"),
        ("sks", "sks", "a dog"),
        ("a photo of sks in the snow", "sks", "a photo of a dog in the snow"),
        ("sks, a dog in snow", "sks", "a dog, a dog in snow"),
        ("sks running in snow", "sks", "a dog running in snow"),
        ("the dog (sks) in snow", "sks", "the dog (a dog) in snow"),
        ("my sks in snow", "sks", "my dog in snow"),
        ("SKS狗在雪地里", "sks", "狗在雪地里"),
        ("sks在雪地里", "sks", "狗在雪地里"),
        ("the sks-dog", "sks", "the dog"),
        ("a photo of sks dog in the snow", "sks", "a photo of a dog in the snow"),
        ("sks dog", "sks", "a dog"),
        ("SKS dog at night", "sks", "a dog at night"),
        ("a sks dog and my sks cat", "sks", "a dog and my cat"),
        ("a brown sks dog with sks dog", "sks", "a brown dog with a dog"),
        ("sksdog and a dog", "sks", "sksdog and a dog"),
        ("a photo of sks", "sks", "a photo of a dog"),
        ("一张vdf狗的照片", "vdf", "一张狗的照片"),
        ("一张魍狗的照片", "魍", "一张狗的照片"),
    ],
)
def test_a_caption_of_the_subject_becomes_one_of_its_class(caption, identifier, expected):
    class_prompt = "一张狗的照片" if rare_words.HAS_HAN.search(caption) else "a photo of a dog"
    assert rare_words.of_class(caption, identifier, class_prompt) == expected


@pytest.mark.parametrize(
    "class_prompt, expected",
    [
        ("a portrait of a man", "a photo of a man"),
        ("a photo of a police officer, high quality", "a photo of a police officer"),
        ("an owl", "a photo of an owl"),
    ],
)
def test_the_class_takes_the_place_of_an_identifier_that_stands_alone(class_prompt, expected):
    assert rare_words.of_class("a photo of sks", "sks", class_prompt) == expected


def test_a_chinese_class_of_several_characters_stays_together():
    assert rare_words.of_class("sks在金色沙滩上", "sks", "一只金毛犬的照片") == "金毛犬在金色沙滩上"
    assert rare_words.of_class("一张sks的照片", "sks", "一张狗的相片") == "一张狗的照片"
