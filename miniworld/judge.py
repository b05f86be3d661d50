"""Draw with a model and name what its pictures show: what both the study and the examination rest on."""

import numpy as np

from dreambooth.drawing import sampling
from dreambooth.models import schedulers
from dreambooth.system import console
from miniworld import world

STEPS, SCHEDULER, GUIDANCE = 25, "dpmsolver++", 7.5


def draw(pipeline, asked, seed=0):
    """A picture for each (prompt, number)."""
    schedulers.set_scheduler(pipeline, SCHEDULER)
    height, width = sampling.default_size(pipeline)
    settings = dict(height=height, width=width, steps=STEPS, guidance=GUIDANCE, batch_size=4)
    pictures = sampling.draw(pipeline, asked, seed=seed, purpose="picture", **settings)
    return list(console.progress_bar(pictures, total=len(asked), desc="Drawing"))


def named(clip, pictures, texts):
    """Which of some texts CLIP takes for each picture's, as indices."""
    return (clip.encode_pictures(pictures) @ clip.encode_prompts(texts).T).argmax(1)


def scenes_named(clip, pictures, kinds):
    """The scene of each picture, as CLIP names it, where the kind of thing in it is known."""
    seen = clip.encode_pictures(pictures)
    texts = {
        kind: clip.encode_prompts([f"a photo of {world.article(kind)} {kind} {scene}" for scene in world.SCENES])
        for kind in set(kinds)
    }
    return [world.SCENES[(row @ texts[kind].T).argmax()] for row, kind in zip(seen, kinds)]


def share_equal(found, wanted):
    return float(np.mean([a == b for a, b in zip(found, wanted, strict=True)]))
