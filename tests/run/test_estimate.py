"""The peak of a run: what each setting saves, and which stage has it."""

import math

import pytest
from support import known_sizes
from support.commands import ROOT
from support.known_sizes import STABLE_DIFFUSION_1
from support.settings import changed, small_config

from dreambooth.config.parser import read_config
from dreambooth.run.memory import estimate
from dreambooth.training.optimizers.table import OPTIMIZERS

GB = 1e9
WEIGHTS = STABLE_DIFFUSION_1.weights


def peak(place=estimate.CARD, **changes):
    config = small_config(**{"resolution": 512, "train_batch_size": 1, **changes})
    state = OPTIMIZERS[config.optimizer.optimizer].bytes_per_weight
    return estimate.peak(config, STABLE_DIFFUSION_1, place, state)


def counted(sizes, line):
    """The peak of a command line on a card, as the documents show it."""
    required = (
        "--instance_data_dir x --instance_prompt sks --output_dir out --class_prompt dog --class_data_dir classes"
    )
    config = read_config([*required.split(), *line], "")
    state = OPTIMIZERS[config.optimizer.optimizer].bytes_per_weight
    return f"{estimate.peak(config, sizes, estimate.CARD, state).total / GB:.1f} GB"


def rows_of(name):
    """The rows of the tables in a document that end with a size, without the marks of code."""
    lines = (ROOT / "docs" / name).read_text(encoding="utf-8").replace("`", "").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows if row[-1].endswith(" GB")}


OF_PRESETS = {
    "sd15": known_sizes.STABLE_DIFFUSION_1,
    "sdxl": known_sizes.STABLE_DIFFUSION_XL,
    "sd3": known_sizes.STABLE_DIFFUSION_3,
    "inpainting": known_sizes.INPAINTING_2,
    "upscaler": known_sizes.UPSCALER,
    "unidiffuser": known_sizes.UNIDIFFUSER,
    "face": known_sizes.STABLE_DIFFUSION_1,
    "style": known_sizes.STABLE_DIFFUSION_1,
    "taiyi": known_sizes.TAIYI,
}
UNCOUNTED = {"if_lora_24gb"}  # the sizes of its UNet are not all known here


def test_the_presets_need_what_their_table_says():
    told = rows_of("settings.md")
    names = {file.stem for file in (ROOT / "dreambooth/config/presets").glob("*.yaml")}
    assert told.keys() == names
    for name in names - UNCOUNTED:
        assert told[name][-1] == counted(OF_PRESETS[name.split("_")[0]], ["--preset", name]), name


@pytest.mark.parametrize(
    "model, name",
    [
        ("Stable Diffusion 1", "sd15"),
        ("Stable Diffusion 2 for inpainting", "inpainting"),
        ("Stable Diffusion's upscaler", "upscaler"),
        ("UniDiffuser", "unidiffuser"),
        ("Stable Diffusion XL", "sdxl"),
        ("Stable Diffusion 3 without T5", "sd3"),
    ],
)
def test_the_families_need_what_their_table_says(model, name):
    size, *told = rows_of("memory.md")[model]
    line = ["--pretrained_model_name_or_path", "m", "--train_batch_size", "1", "--resolution", size.split()[0]]
    line += [] if name == "unidiffuser" else ["--gradient_checkpointing"]
    ways = "--lora_rank 8 --mixed_precision fp16", "--optimizer adafactor --early_update", ""
    assert told == [counted(OF_PRESETS[name], [*line, *way.split()]) for way in ways]


def test_a_whole_network_has_weights_gradients_and_moments():
    stage = peak()
    assert stage.name == "training"
    assert 16 * WEIGHTS["unet"] < stage.total < 16 * WEIGHTS["unet"] + 2 * GB
    assert GB < stage.total - peak(early_update=True).total < 4 * WEIGHTS["unet"]
    assert peak(ema_decay=0.9).total - stage.total == pytest.approx(4 * WEIGHTS["unet"])
    assert peak(train_text_encoder=True).total - stage.total > 12 * WEIGHTS["text_encoder"]
    for name, spec in OPTIMIZERS.items():
        assert peak(optimizer=name).kept - stage.kept == pytest.approx((spec.bytes_per_weight - 8) * WEIGHTS["unet"])


@pytest.mark.parametrize("place", [estimate.CPU, estimate.CARD])
def test_less_is_taken_by_a_lora_by_checkpointing_and_by_smaller_pictures(place):
    whole = peak(place)
    lora = peak(place, lora_rank=4)
    assert lora.total < 0.7 * whole.total and lora.total > 4 * WEIGHTS["unet"]
    assert peak(place, lora_rank=512).total > lora.total
    assert peak(place, gradient_checkpointing=True).passing < whole.passing
    assert peak(place, resolution=256).passing < whole.passing
    assert peak(place, train_batch_size=2).passing > whole.passing


def test_the_scores_of_attention_are_kept_where_they_are_few_or_no_kernel_spares_them():
    def passing(most_scores, **changes):
        config = small_config(**{"resolution": 512, "train_batch_size": 1, "lora_rank": 4, **changes})
        place = estimate.Place(is_card=False, most_scores=most_scores)
        return estimate.stages(config, STABLE_DIFFUSION_1, place, 8)[0].passing

    spared, on_cpu = passing(0), passing(estimate.CPU.most_scores)
    assert passing(math.inf) - spared > 5 * 4 * 8 * 4096**2
    assert spared < on_cpu < spared + 0.5 * GB
    assert passing(estimate.CPU.most_scores, resolution=256) == passing(math.inf, resolution=256)


def test_a_class_doubles_the_examples_and_has_its_own_stage():
    prior = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir="c")
    assert peak(**prior).passing == pytest.approx(peak(train_batch_size=2).passing)
    # a LoRA in half precision takes less than the drawing of several pictures at once
    drawing = peak(**prior, lora_rank=4, gradient_checkpointing=True, sample_batch_size=16)
    assert drawing.name == "drawing the class pictures"
    assert peak(**prior, lora_rank=4, gradient_checkpointing=True, sample_batch_size=1).total < drawing.total


def test_validation_and_saving_need_the_other_networks_again():
    config = small_config(resolution=512, train_batch_size=1, validation_prompt=("a dog",))
    found = {stage.name: stage for stage in estimate.stages(config, STABLE_DIFFUSION_1, estimate.CARD, 8)}
    beside = 4 * (WEIGHTS["text_encoder"] + WEIGHTS["vae"])
    for name in ("drawing for validation", "saving"):
        assert found[name].kept - found["training"].kept == pytest.approx(beside)
    lora = changed(config, lora_rank=4)
    assert "saving" not in {stage.name for stage in estimate.stages(lora, STABLE_DIFFUSION_1, estimate.CARD, 8)}


def test_a_new_word_keeps_the_text_encoder_and_alone_has_no_gradients_and_moments():
    def stages(**changes):
        config = small_config(**{"resolution": 512, "train_batch_size": 1, "instance_prompt": "a <sks> dog", **changes})
        return estimate.stages(config, STABLE_DIFFUSION_1, estimate.CARD, 8)

    alone, jointly = (stages(learn_identifier=each)[0] for each in ("alone", "jointly"))
    lora, whole = stages(lora_rank=4)[0], stages()[0]
    small = 0.05 * GB  # the LoRA's own
    assert alone.kept - lora.kept == pytest.approx(4 * WEIGHTS["text_encoder"], abs=small)
    assert jointly.kept - whole.kept == pytest.approx(4 * WEIGHTS["text_encoder"])
    assert lora.passing - small < alone.passing < lora.passing + GB
    drawn = dict(validation_prompt=("a dog",), validation_steps=1)
    names = [each.name for each in stages(learn_identifier="alone", **drawn)]
    assert "saving" not in names and "drawing for validation" in names
