"""Files that are damaged at random, the same way from each seed."""

import random
import re


def mutated(data, seed, text=False):
    """Some bytes with one kind of damage, which follows from the seed."""
    draw = random.Random(seed)
    kinds = [_flip, _flip_in_head, _cut, _drop, _repeat, _overwrite, *([_number, _number, _word] if text else [])]
    return bytes(draw.choice(kinds)(bytearray(data), draw))


def _flip(data, draw):
    for _ in range(draw.choice((1, 1, 4, 32))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def _flip_in_head(data, draw):
    """In the first bytes, where lengths and kinds stand."""
    for _ in range(draw.choice((1, 2, 8))):
        data[draw.randrange(min(len(data), 64))] = draw.randrange(256)
    return data


def _cut(data, draw):
    return data[: draw.choice((0, 1, 7, draw.randrange(len(data)), len(data) - 1))]


def _drop(data, draw):
    begin = draw.randrange(len(data))
    del data[begin : begin + draw.choice((1, 8, 500))]
    return data


def _repeat(data, draw):
    begin = draw.randrange(len(data))
    piece = data[begin : begin + draw.choice((1, 16, 3000))]
    return data[:begin] + piece * draw.choice((2, 2, 50)) + data[begin:]


def _overwrite(data, draw):
    begin, length = draw.randrange(len(data)), draw.choice((4, 64))
    data[begin : begin + length] = draw.choice((b"\0", b"\xff", b"{", b"[")) * length
    return data


def _replaced(pattern, data, draw, others):
    """One of the places that a pattern finds near the beginning, with one of the others in it."""
    places = list(re.finditer(pattern, data[:20_000]))
    if not places:
        return data
    found = draw.choice(places)
    new = draw.choice(others)
    return data[: found.start()] + new + data[found.end() :]


def _number(data, draw):
    """Another number in the place of one, as in the header of a safetensors file or in settings."""
    return _replaced(
        rb"\d+",
        data,
        draw,
        (b"-1", b"0", b"1", b"7", b"1e400", b"4294967296", b"9223372036854775808", b"null", b"9" * 5000),
    )


def _word(data, draw):
    """Another value in the place of a text."""
    return _replaced(
        rb'"[^"]*"',
        data,
        draw,
        (b"null", b"[]", b"{}", b"true", b'"../../x"', b'"\\ud800"', b'""', b'"a\\nb"', b"[" * 2000),
    )
