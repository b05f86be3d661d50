"""The tokenizer of the small Stable Diffusion: byte-level BPE in CLIP's format, learned on the world's own captions."""

import json
from collections import Counter

from miniworld import things, world
from miniworld.networks import TOKENS

# words that a person may write although no caption of the world has them
OTHERS = """
    above and any are as at background beautiful behind below beside big bright by close cloudy colourful cute
    dark drawing evening eye face far floor flying for forest from front garden good happy hat has heart hill
    hot ice in inside is its jumping kitchen lake large lightning little long looking made moon morning mountain
    near next nice no not of old one outside over painting park picture playing rain river road room round
    running sand sea shining side sitting sky sleeping small snowy standing star street style summer sun sunny
    that the this toy two under walking wall water wearing white wild wind window winter with wood wooden yard
    young
"""
# rare words, which no caption has and nobody writes: they can become a subject's name
RARE = "sks zwx qxj vzk ukj xwq bnv gdz hfq ykp jrl wcm ktz pxo sfv uqg dwj ohw nlx rzk"


def byte_alphabet():
    """The 256 bytes as printable letters, as byte-level BPE writes them: those that can't be printed begin at 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def counts(seed, captions=20_000):
    """How often each word is met; a word that is only known counts once."""
    words = Counter()
    for number in range(captions):
        words.update(world.caption(*world.sample(seed, number), seed, number).split())
    known = [*OTHERS.split(), *RARE.split(), *things.COLOURS, *things.MARKS]
    return words | Counter(dict.fromkeys(known, 1))


def learn_merges(words):
    """Join the commonest neighbours, again and again, until each word is one piece (Sennrich et al., 2016)."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while True:
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = merged(parts, best)


def merged(parts, pair):
    result = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def make(folder, seed):
    """Write the tokenizer into a folder. The end mark has the highest number, where CLIP's text tower looks for it."""
    from ppdiffusers.transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(counts(seed))
    letters = byte_alphabet()
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    files = folder / "vocab.json", folder / "merges.txt"
    numbers = {word: number for number, word in enumerate(words)}
    files[0].write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    files[1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(*map(str, files), max_len=TOKENS, model_max_length=TOKENS)
    tokenizer.save_pretrained(str(folder))
    return tokenizer
