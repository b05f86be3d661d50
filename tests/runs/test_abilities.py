"""What the families can do that see a picture, or work on pixels: each ability trains, and its result draws."""

import numpy as np
import pytest
from PIL import Image
from support.commands import command_line, train
from support.families import load_family
from support.pictures import write_left_masks

from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.drawing.inputs.starts import Start
from dreambooth.system.errors import BadInput

ABILITIES = {
    "LoRA": dict(lora_rank=2, lora_targets=["all"]),
    "DoRA": dict(lora_rank=2, use_dora=True),
    "text encoder": dict(train_text_encoder=True),
    "new word": dict(learn_identifier="jointly", instance_prompt="a photo of <sks> dog"),
    "class by prediction": dict(prior_by_prediction=True, class_prompt="a photo of a dog"),
    "buckets": dict(resize_mode="buckets"),
    "pad": dict(resize_mode="pad"),
    "masks": dict(mask_dir="masks"),
    "Min-SNR": dict(snr_gamma=5),
    "gradient checkpointing": dict(gradient_checkpointing=True),
    "early update": dict(early_update=True),
}
OF_T5 = ("text encoder", "new word")
SIZES = {"inpainting_twin": 32, "upscaler_twin": 32, "pixels_twin": 16, "pixels_upscaler_twin": 32}


@pytest.mark.parametrize("ability", ABILITIES)
@pytest.mark.parametrize("name", SIZES)
def test_a_family_can_do_it_or_refuses(request, name, ability, pictures, tmp_path):
    folder, size, settings = request.getfixturevalue(name), SIZES[name], dict(ABILITIES[ability])
    if "mask_dir" in settings:
        settings["mask_dir"] = write_left_masks(pictures, tmp_path / "masks")
    line = command_line(folder, pictures, tmp_path / "out", **{"resolution": size, "learning_rate": 1e-2, **settings})
    if name.startswith("pixels") and ability in OF_T5:
        with pytest.raises(BadInput, match="T5"):
            train(line)
        return
    train(line)
    prompt = settings.get("instance_prompt", "a photo of sks dog")
    assert (drawn(tmp_path / "out", size, prompt) != drawn(folder, size, prompt)).any()


def drawn(folder, size, prompt):
    family = load_family(folder)
    small = np.random.default_rng(0).integers(0, 256, (size // family.enlargement,) * 2 + (3,), np.uint8)
    start = Start(Image.fromarray(small)) if family.facts.enlarges else None
    settings = DrawSettings(3, "picture", (size, size), 2, scheduler="ddim")
    return np.asarray(next(sampling.draw(family, settings, [(prompt, 0)], start)))
