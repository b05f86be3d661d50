"""What a LoRA and class pictures do for a UniDiffuser; prints the table of docs/models.md.

python -m pytest tests/runs/test_what_a_unidiffuser_learns.py --slow -s
"""

import time

import numpy as np
import paddle
import pytest
from PIL import Image
from support.commands import command_line, train
from support.families import load_family
from support.twins import build_unidiffuser

from dreambooth.training.objective.diffusion import diffusion_for
from miniworld import photograph, world

SIDE, SEEDS, TIMES = 32, 3, 10
OF_SUBJECT, OF_CLASS = "a photo of sks dog", "a photo of a dog"
PRIOR = dict(with_prior_preservation=True, class_prompt=OF_CLASS, num_class_images=60)
METHODS = {
    "whole network, 5e-4": dict(learning_rate=5e-4),
    "LoRA of rank 8, all layers, 3e-3": dict(lora_rank=8, lora_targets=["all"], learning_rate=3e-3),
}
SAME = "the same with 60 class pictures"


def write(things, folder, has_captions=False):
    folder.mkdir()
    for number, (look, scene, seed) in enumerate(things):
        picture = world.picture(look, scene, seed, number).resize((SIDE, SIDE))
        picture.save(folder / f"{number:04}.png")
        if has_captions:
            (folder / f"{number:04}.txt").write_text(f"a photo of a {look.colour} {look.kind} {scene}")
    return folder


@pytest.fixture(scope="module")
def world_of(tmp_path_factory):
    """Folders of pictures: the world, dogs for the class, other dogs, the subject in its scenes and in others."""
    folder = tmp_path_factory.mktemp("world")
    write([(*world.thing(1, number), 1) for number in range(300)], folder / "world", has_captions=True)
    dogs = [(*world.thing(2, number), 2) for number in range(2000)]
    dogs = [each for each in dogs if each[0].kind == "dog"][:100]
    write(dogs[:60], folder / "class")
    write(dogs[60:], folder / "other dogs")
    photograph.write_training_pictures("dog", folder / "subject")
    (folder / "unseen").mkdir()
    for place, scene in enumerate(world.UNSEEN):
        for number in range(100, 106):
            world.photograph("dog", scene, 0, number).save(folder / "unseen" / f"{place}-{number}.png")
    return folder


@pytest.fixture(scope="module")
def base(world_of, tmp_path_factory):
    """A small UniDiffuser that has seen the world for a minute."""
    folder = tmp_path_factory.mktemp("base")
    twin = build_unidiffuser(folder / "random", length=32)
    settings = dict(captions="txt", instance_prompt="a photo", learning_rate=2e-3, ema_decay=0.99)
    many = dict(train_batch_size=8, max_train_steps=600, resolution=SIDE, no_last_checkpoint=True)
    train(command_line(twin, world_of / "world", folder / "base", **settings, **many))
    return folder / "base"


def error(folder, pictures, prompt):
    """The mean squared error of the predicted noise, as the loss weighs it."""
    family, random = load_family(folder), np.random.default_rng(0)
    diffusion = diffusion_for(family.pipeline.scheduler, has_channels=False)
    opened = [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in sorted(pictures.iterdir())]
    pixels = np.stack([np.asarray(each, np.float32).transpose(2, 0, 1) / 127.5 - 1 for each in opened])
    found, count = [], len(opened)
    with paddle.no_grad():
        encoding = family.encode_pictures(paddle.to_tensor(pixels))
        clean = family.latents(encoding, paddle.zeros_like(encoding["mean"]))
        hidden = family.encode_prompts([prompt])["hidden"]
        conditioning = {"hidden": hidden.expand([count, *hidden.shape[1:]])}
        for number in range(TIMES):
            t = paddle.to_tensor((np.arange(count) * 997 // count + number * 37) % 1000)
            noise = paddle.to_tensor(random.standard_normal(clean.shape).astype("float32"))
            predicted = family.predict(diffusion.add_noise(clean, noise, t), t, conditioning)
            difference = family.scaled_for_loss(predicted) - family.scaled_for_loss(noise)
            found.append(difference.square().mean().item())
    return np.mean(found)


@pytest.mark.slow
def test_class_pictures_keep_the_class_and_a_lora_learns_less_of_both(base, world_of, tmp_path):
    measured = [("subject", OF_SUBJECT), ("unseen", OF_SUBJECT), ("other dogs", OF_CLASS)]
    before = [error(base, world_of / folder, prompt) for folder, prompt in measured]
    found = {}
    print("\n| | its own pictures | others of the subject | other dogs | seconds |\n|---|---|---|---|---|")
    for method, settings in METHODS.items():
        for name, more in ((method, {}), (SAME, {**PRIOR, "class_data_dir": world_of / "class"})):
            rows, seconds = [], []
            for seed in range(SEEDS):
                out, start = tmp_path / f"{method} {len(more)} {seed}", time.perf_counter()
                run = dict(
                    resolution=SIDE, train_batch_size=4, max_train_steps=100, seed=seed, instance_prompt=OF_SUBJECT
                )
                train(command_line(base, world_of / "subject", out, **run, **settings, **more, no_last_checkpoint=True))
                seconds.append(time.perf_counter() - start)
                after = [error(out, world_of / folder, prompt) for folder, prompt in measured]
                rows.append(np.divide(after, before))
            mean, spread = np.mean(rows, 0), np.std(rows, 0, ddof=1)
            cells = [f"{one:.2f} ± {other:.2f}" for one, other in zip(mean, spread)]
            print(f"| {name} | {' | '.join(cells)} | {np.mean(seconds):.0f} |")
            found[method, bool(more)] = mean
    for method in METHODS:
        plain, kept = found[method, False], found[method, True]
        assert max(plain[0], kept[0]) < 0.96, "the subject is learned"
        assert plain[2] > 1.04 and kept[2] < 1.02, "class pictures keep the class"
        assert kept[1] < plain[1] - 0.04, "and the subject in other scenes"
    whole, lora = (found[method, False] for method in METHODS)
    assert whole[0] < lora[0] and whole[2] > lora[2]
