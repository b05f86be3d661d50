"""A small CLIP for the measures."""

import paddle
import pytest

from miniworld import networks, tokenizer


def build_clip(folder, half=False):
    """A small CLIP with random weights, in a folder as miniworld.packing makes it."""
    from ppdiffusers.transformers import CLIPImageProcessor

    with pytest.MonkeyPatch.context() as patch:  # the twenty thousand captions of the real one take seconds
        counts = tokenizer.counts
        patch.setattr(tokenizer, "counts", lambda seed: counts(seed, captions=300))
        tokens = tokenizer.make(folder.parent / f"{folder.name}-tokenizer", seed=0)
    paddle.seed(0)
    network = networks.clip(tokens)
    if half:
        network.to(dtype=paddle.float16)
    network.save_pretrained(str(folder), safe_serialization=False)
    tokens.save_pretrained(str(folder))
    side = {"height": networks.SIZE, "width": networks.SIZE}
    CLIPImageProcessor(
        size={"shortest_edge": networks.SIZE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(str(folder))
    return folder
