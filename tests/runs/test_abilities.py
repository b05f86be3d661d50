"""What each family can do: an ability makes the difference that it should, or is refused with its reason."""

import pytest
from support.commands import command_line, train
from support.families import load_family
from support.pictures import draw_pictures, write_left_masks
from support.slowly import mostly_slow
from support.weights import mean_difference

from dreambooth.files import records
from dreambooth.models import pipeline_folder, registry
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
    "Min-SNR": dict(snr_gamma=0.1),
    "gradient checkpointing": dict(gradient_checkpointing=True),
    "early update": dict(early_update=True),
}
SIZES = {
    **dict.fromkeys(
        (
            "twin",
            "xl_twin",
            "sd3_twin",
            "unidiffuser_twin",
            "inpainting_twin",
            "upscaler_twin",
        ),
        32,
    ),
    **{"pixels_twin": 16, "pixels_upscaler_twin": 32},
    **{"velocity_twin": 32, "bert_twin": 32},  # of the first one's family
}
OF_PIXELS = {"text encoder": "T5", "new word": "T5"}
# (a family's twin, what it can't do) -> what the refusal says
REFUSED = {
    "pixels_twin": OF_PIXELS,
    "pixels_upscaler_twin": OF_PIXELS,
    "sd3_twin": {"Min-SNR": "--snr_gamma"},
    "unidiffuser_twin": {
        "buckets": "--resize_mode buckets",
        "pad": "--resize_mode pad",
        "masks": "--mask_dir",
        "gradient checkpointing": "--gradient_checkpointing",
    },
}
# which change how the same is computed
SAME = ("gradient checkpointing", "early update")


@pytest.fixture(scope="module")
def wide_pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("wide") / "dog", 3, size=(64, 40))


@pytest.fixture(scope="module")
def trained(request, wide_pictures, tmp_path_factory):
    """A function: the folder of a short run on a twin, with some settings; each is made once."""
    made = {}

    def train_once(name, more=()):
        key = name, str(more)
        if key not in made:
            folder = tmp_path_factory.mktemp("run") / "out"
            settings = {"resolution": SIZES[name], **dict(more)}
            train(command_line(request.getfixturevalue(name), wide_pictures, folder, **settings))
            made[key] = folder
        return made[key]

    return train_once


@pytest.mark.parametrize("ability", ABILITIES)
@pytest.mark.parametrize("name", mostly_slow(SIZES, quick=len(SIZES) - 2))
def test_a_family_can_do_it_or_refuses(name, ability, trained, wide_pictures, tmp_path, request):
    settings = dict(ABILITIES[ability])
    if "mask_dir" in settings:
        settings["mask_dir"] = write_left_masks(wide_pictures, tmp_path / "masks", (64, 40))
    if name == "bert_twin" and ability == "new word":
        settings["initializer_token"] = "狗"  # its vocabulary has no English
    if reason := REFUSED.get(name, {}).get(ability):
        with pytest.raises(BadInput, match=reason):
            trained(name, settings)
        return
    folder = trained(name, settings)
    denoiser = registry.facts_of(pipeline_folder.read_index(request.getfixturevalue(name))).denoiser
    if "lora_rank" in settings:
        layers = records.read_lora(folder, "--model_path", registry.LORA_PARTS)[denoiser]
        assert any(up.any() for _, up, _ in layers.values())
        assert all((lengths is not None) == ("use_dora" in settings) for *_, lengths in layers.values())
        return
    plain = trained(name)
    if ability == "new word":
        assert (folder / "learned_embeds.safetensors").is_file()
    elif ability == "text encoder":
        base, own = (load_family(each).networks()["text_encoder"].state_dict() for each in (plain, folder))
        assert any((base[key] != own[key]).any() for key in base)
    elif ability in SAME:
        assert mean_difference(folder / denoiser, plain / denoiser) < 1e-7
    else:
        assert mean_difference(folder / denoiser, plain / denoiser) > 1e-7
