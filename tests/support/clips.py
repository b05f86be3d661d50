"""A small CLIP for the measures."""

import paddle

from miniworld import networks, tokenizer

CAPTIONS = 300  # enough for a tokenizer of the real one's kind, and thousands more take seconds


def build_clip(folder, half=False):
    """Write a small CLIP with random weights into a folder, as miniworld.packing does."""
    tokens = tokenizer.make(folder.parent / f"{folder.name}-tokenizer", seed=0, captions=CAPTIONS)
    paddle.seed(0)
    network = networks.clip(tokens)
    if half:
        network.to(dtype=paddle.float16)
    network.save_pretrained(str(folder), safe_serialization=False)
    tokens.save_pretrained(str(folder))
    networks.image_processor().save_pretrained(str(folder))
    return folder
