"""The tokenizer of the small Stable Diffusion: byte-level BPE in CLIP's format, trained on the world's captions."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from dreambooth.files import atomic
from miniworld import networks, things, world

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dreambooth.system.types import Tokenizer

Pair = tuple[str, str]

# words that people write, but that no caption of the world contains
OTHERS = """
    above and any are as at background beautiful behind below beside big bright by close cloudy colourful cute
    dark drawing evening eye face far floor flying for forest from front garden good happy hat has heart hill
    hot ice in inside is its jumping kitchen lake large lightning little long looking made moon morning mountain
    near next nice no not of old one outside over painting park picture playing rain river road room round
    running sand sea shining side sitting sky sleeping small snowy standing star street style summer sun sunny
    that the this toy two under walking wall water wearing white wild wind window winter with wood wooden yard
    young
"""
# rare words, which no caption contains and nobody writes: each can become a subject's identifier
RARE = "sks zwx qxj vzk ukj xwq bnv gdz hfq ykp jrl wcm ktz pxo sfv uqg dwj ohw nlx rzk"


def byte_alphabet() -> list[str]:
    """Return byte-level BPE's letter for each of the 256 bytes; the unprintable bytes get letters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def count_words(seed: int, captions: int) -> Counter[str]:
    """Count the words of some captions; known words that no caption contains count once."""
    words: Counter[str] = Counter()
    for number in range(captions):
        words.update(world.caption(*world.thing(seed, number), seed, number).split())
    known = [*OTHERS.split(), *RARE.split(), *things.COLOURS, *things.MARKS]
    return words | Counter(dict.fromkeys(known, 1))


def learn_merges(words: Mapping[str, int]) -> list[Pair]:
    """Merge the most frequent neighbours until each word is one piece (Sennrich et al., 2016, algorithm 1)."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[Pair] = []
    while True:
        pairs: Counter[Pair] = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = merge_pair(parts, best)


def merge_pair(parts: Sequence[str], pair: Pair) -> list[str]:
    """Join each occurrence of a pair of neighbours, from the left."""
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def make(folder: Path, seed: int, captions: int) -> Tokenizer:
    """Train the tokenizer on some captions, write it into a folder and return it.

    The end-of-text token has the highest number, because CLIP's text tower finds the end of a text that way.
    """
    from ppdiffusers.transformers import CLIPTokenizer

    merges = learn_merges(count_words(seed, captions))
    letters = byte_alphabet()
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    numbers = {word: number for number, word in enumerate(words)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    with atomic.whole_folder(folder) as temporary:
        files = temporary / "vocab.json", temporary / "merges.txt"
        files[0].write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
        files[1].write_text("\n".join(lines) + "\n", encoding="utf-8")
        tokenizer = CLIPTokenizer(*map(str, files), max_len=networks.TOKENS, model_max_length=networks.TOKENS)
        tokenizer.save_pretrained(str(temporary))
    return CLIPTokenizer.from_pretrained(str(folder))
