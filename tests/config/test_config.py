"""The training settings: defaults, aliases, sizes, refusals, and the numbers that are derived."""

import dataclasses
import math
from typing import get_args

import pytest
from support.settings import small_config

from dreambooth.config.checks import doubts
from dreambooth.config.config import SECTIONS, Config
from dreambooth.config.learning_sections import Schedule
from dreambooth.config.parser import read_config
from dreambooth.system.errors import BadInput

REQUIRED = {
    "--pretrained_model_name_or_path": "model",
    "--instance_data_dir": "pictures",
    "--instance_prompt": "a photo of sks dog",
}
PRIOR = ["--with_prior_preservation", "--class_data_dir", "classes", "--class_prompt", "a photo of a dog"]

DEFAULTS = dict(
    output_dir="dreambooth-model",
    with_prior_preservation=False,
    class_data_dir=None,
    class_prompt=None,
    subject=None,
    class_negative_prompt=None,
    captions=None,
    caption_dropout=0.0,
    num_class_images=100,
    prior_loss_weight=1.0,
    train_text_encoder=False,
    num_train_epochs=None,
    max_train_steps=None,
    seed=None,
    tokenizer_name=None,
    revision=None,
    dry_run=False,
    sheet=None,
    verbose=False,
    center_crop=False,
    resize_mode=None,
    mask_dir=None,
    use_alpha=False,
    unmasked_weight=0.1,
    random_flip=False,
    train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=None,
    lora_rank=None,
    lora_alpha=None,
    lora_dropout=None,
    lora_merge=False,
    text_encoder_lr=None,
    scale_lr=False,
    lr_scheduler="constant",
    lr_warmup_steps=500,
    lr_num_cycles=1,
    lr_power=1.0,
    optimizer="adamw",
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_weight_decay=0.02,
    adam_epsilon=1e-8,
    max_grad_norm=None,
    ema_decay=None,
    gradient_checkpointing=False,
    early_update=False,
    mixed_precision="no",
    cache_latents=True,
    sample_batch_size=4,
    dataloader_num_workers=0,
    prior_scheduler="dpmsolver++",
    prior_inference_steps=20,
    save_steps=500,
    last_checkpoint=True,
    checkpoints_total_limit=3,
    resume_from_checkpoint=None,
    allow_changes=False,
    overwrite=False,
    save_format="pdparams",
    logging_dir="logs",
    writer_type="visualdl",
    logging_steps=1,
    validation_prompt=None,
    validation_steps=None,
    num_validation_images=None,
)


def flat_value(config, name):
    """A setting by its flag alone."""
    [value] = [getattr(section, name) for section in vars(config).values() if hasattr(section, name)]
    return value


def read(flags=""):
    """The Config of a line of flags, beside those that are required."""
    base = [part for pair in REQUIRED.items() for part in pair]
    return read_config(base + (flags.split() if isinstance(flags, str) else flags), "")


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_is_the_documented_one(name):
    assert flat_value(read(), name) == DEFAULTS[name]


def test_the_default_size_is_512_by_512():
    assert read().pictures.size == (512, 512)


def test_the_required_flags_are_read():
    config = read()
    assert config.model.pretrained_model_name_or_path == "model"
    assert config.concepts.instance_data_dir == "pictures"
    assert config.concepts.instance_prompt == "a photo of sks dog"


@pytest.mark.parametrize(
    "flags, size",
    [
        ("--height 768", (768, 512)),
        ("--width 768", (512, 768)),
        ("--height 256 --width 320", (256, 320)),
        ("--resolution 768", (768, 768)),
        ("--resolution 768 --height 640", (640, 768)),
        ("--width 640 --resolution 768", (768, 640)),
    ],
)
def test_height_width_and_resolution_are_each_obeyed(flags, size):
    assert read(flags).pictures.size == size


@pytest.mark.parametrize(
    "flags",
    [
        *(f"--learning_rate {value}" for value in ("nan", "inf", "-inf", "1e999", "0", "-1e-4", "-1", "fast")),
        "--text_encoder_lr 0",
        "--text_encoder_lr nan",
        "--prior_loss_weight -0.1",
        "--prior_loss_weight nan",
        "--adam_beta1 1",
        "--adam_beta1 -0.1",
        "--adam_beta2 1.5",
        "--adam_beta2 nan",
        "--adam_weight_decay -1",
        "--adam_weight_decay inf",
        "--adam_epsilon 0",
        "--max_grad_norm 0",
        "--max_grad_norm -1",
        "--max_grad_norm inf",
        "--ema_decay 0",
        "--ema_decay 1",
        "--ema_decay nan",
        "--lr_power 0",
        "--lr_num_cycles 0",
        "--lr_warmup_steps -1",
        "--lr_scheduler wavy",
        "--train_batch_size 0",
        "--train_batch_size 1.5",
        "--gradient_accumulation_steps 0",
        "--num_train_epochs 0",
        "--max_train_steps 0",
        "--num_class_images 0",
        "--sample_batch_size 0",
        "--dataloader_num_workers -1",
        "--prior_inference_steps 0",
        "--prior_scheduler unipc",
        "--seed -1",
        "--seed luck",
        "--save_steps 0",
        "--checkpoints_total_limit -1",
        "--save_format bin",
        "--logging_steps 0",
        "--writer_type paper",
        "--mixed_precision fp8",
        "--height 0",
        "--height 100",
        "--height 64.0",
        "--width -8",
        "--width 12",
        "--resolution 513",
        "--resolution 4",
        "--validation_steps 5",
        "--validation_steps 0 --validation_prompt x",
        "--num_validation_images 2",
        "--num_validation_images 0 --validation_prompt x",
        "--allow_changes",
        "--learn 1",
        "--seeds 1",
        "--max_train_steps",
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_its_flag(flags):
    with pytest.raises(BadInput, match=rf"{flags.split()[0]}\b") as caught:
        read(flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_what_is_required_can_be_neither_missing_nor_empty(name, value):
    given = {**REQUIRED, name: value}
    with pytest.raises(BadInput, match=name):
        read_config([part for pair in given.items() if pair[1] is not None for part in pair], "")


def test_a_config_built_without_the_parser_is_checked_too():
    with pytest.raises(BadInput, match="--learning_rate"):
        small_config(learning_rate=math.nan)


def test_a_config_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().run.seed = 1


def test_the_global_batch_is_batch_times_accumulation_times_processes():
    assert read("--train_batch_size 2 --gradient_accumulation_steps 3").optimizer.global_batch(4) == 24


@pytest.mark.parametrize(
    "flags, denoiser, text_encoder",
    [
        ("", 1e-4, 1e-4),
        ("--text_encoder_lr 2e-5", 1e-4, 2e-5),
        ("--scale_lr", 24e-4, 24e-4),
        ("--scale_lr --text_encoder_lr 2e-5", 24e-4, 48e-5),
    ],
)
def test_scale_lr_multiplies_both_rates_by_the_global_batch(flags, denoiser, text_encoder):
    config = read(f"--learning_rate 1e-4 --train_batch_size 2 --gradient_accumulation_steps 3 {flags}")
    rates = config.rates(["transformer", "text_encoder", "text_encoder_2"], "transformer", processes=4)
    assert rates == pytest.approx(
        {"transformer": denoiser, "text_encoder": text_encoder, "text_encoder_2": text_encoder}
    )


@pytest.mark.parametrize(
    "flags, examples, processes, steps",
    [
        ("--max_train_steps 7 --num_train_epochs 100", 5, 1, 7),
        ("--num_train_epochs 1 --train_batch_size 1 --gradient_accumulation_steps 8", 5, 1, 1),
        ("--num_train_epochs 1 --train_batch_size 1", 5, 1, 5),
        ("--num_train_epochs 1 --train_batch_size 4", 5, 1, 2),
        ("", 5, 1, 400),
        ("--lora_rank 4", 5, 1, 800),
        ("--lora_rank 4 --num_train_epochs 1 --train_batch_size 1", 5, 1, 5),
        ("--train_batch_size 4 --num_train_epochs 3", 5, 1, 4),
        ("--train_batch_size 4 --num_train_epochs 4", 5, 1, 5),
        ("--train_batch_size 2 --num_train_epochs 2", 5, 2, 3),
    ],
)
def test_the_steps_cover_every_epoch_to_its_last_picture(flags, examples, processes, steps):
    assert read(flags).total_steps([examples], processes) == steps


def test_the_course_does_not_depend_on_how_the_global_batch_is_split():
    whole = read("--train_batch_size 4").fingerprint(10, 1)
    assert read("--train_batch_size 2").fingerprint(10, 2) == whole
    assert read("--train_batch_size 1 --gradient_accumulation_steps 2").fingerprint(10, 2) == whole
    assert read("--train_batch_size 4").fingerprint(10, 2) != whole


OUTSIDE_OF_THE_COURSE = {
    *(
        "instance_data_dir",
        "class_data_dir",
        "output_dir",
        "dry_run",
        "sheet",
        "verbose",
    ),  # the pictures count by their hashes
    *(
        "subject",
        "mask_dir",
        "captions",
        "class_negative_prompt",
    ),  # and these by theirs
    *("num_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps"),  # by their product
    *("gradient_checkpointing", "early_update", "cache_latents", "sample_batch_size", "dataloader_num_workers"),
    *("prior_scheduler", "prior_inference_steps"),
    *("save_steps", "last_checkpoint", "checkpoints_total_limit", "overwrite", "resume_from_checkpoint"),
    *("allow_changes", "save_format", "lora_merge"),
    *("validation_data_dir", "clip_model_path", "patience"),
    *("logging_dir", "writer_type", "logging_steps", "validation_prompt", "validation_steps", "num_validation_images"),
}


def test_the_course_holds_all_flags_but_those_that_do_not_change_an_update():
    names = (
        {each.name for section in SECTIONS.values() for each in dataclasses.fields(section)}
        - OUTSIDE_OF_THE_COURSE
        - {"resolution", "concepts"}  # several subjects have their own there, in place of the prompts'
    )
    assert not {"optimizer", "caption_dropout"} & set(read().fingerprint(10, 1))  # earlier versions had no other
    others = [
        "--lora_rank",
        "2",
        "--optimizer",
        "adafactor",
        "--caption_dropout",
        "0.1",
        "--use_alpha",
        *("--resize_mode", "buckets", "--random_crop", "--color_jitter", "0.1", "--no_cache_latents"),
        *("--class_prompts_from_captions", "--class_captions", "txt"),
        *("--lora_targets", "attention", "time", "--lora_ranks", "time=1", "--lora_alphas", "time=2"),
        *("--use_rslora", "--use_dora", "--loraplus_lr_ratio", "4"),
        *("--prior_by_prediction", "--snr_gamma", "5", "--loss_type", "huber", "--noise_offset", "0.1"),
        *("--input_perturbation", "0.1", "--zero_terminal_snr", "--timestep_shift", "2"),
        *("--timestep_sampling", "logit_normal"),
        *("--min_timestep", "1", "--max_timestep", "9"),
        *("--learn_identifier", "jointly", "--initializer_token", "dog", "--identifier_lr", "1e-3"),
        *("--instance_prompt", "a photo of <sks> dog"),
        *("--keep_best", "--validation_steps", "5"),
        "--without_t5",
    ]
    # a LoRA has layers of its own choice
    assert set(read([*PRIOR, *others]).fingerprint(10, 1)) == names - {"trained_layers"} | {
        "train_batch_size x gradient_accumulation_steps x processes",
        "measures",
    }
    assert read("--trained_layers time").fingerprint(10, 1)["trained_layers"] == ["time"]


@pytest.mark.parametrize(
    "flags, result, leaves_networks",
    [
        ("", "pipeline", False),
        ("--lora_rank 2", "LoRA", True),
        ("--lora_rank 2 --lora_merge", "pipeline", True),
        ("--learn_identifier alone --instance_prompt <sks>", "word", True),
        ("--learn_identifier jointly --instance_prompt <sks>", "pipeline", False),
        ("--learn_identifier jointly --instance_prompt <sks> --lora_rank 2", "LoRA", True),
    ],
)
def test_what_results(flags, result, leaves_networks):
    config = read(flags)
    assert (config.result, config.leaves_networks) == (result, leaves_networks)


@pytest.mark.parametrize(
    "flags, rates",
    [
        ("--learn_identifier alone", {"words": 5e-4}),
        ("--learn_identifier alone --learning_rate 2e-3", {"words": 2e-3}),
        ("--learn_identifier alone --identifier_lr 3e-3 --scale_lr", {"words": 1.2e-2}),
        ("--learn_identifier jointly", {"unet": 5e-6, "words": 5e-4}),
        ("--learn_identifier jointly --lora_rank 2 --identifier_lr 1e-3", {"unet": 1e-4, "words": 1e-3}),
        ("--learn_identifier jointly --optimizer prodigy", {"unet": 1.0, "words": 1.0}),
    ],
)
def test_a_new_word_has_a_rate_of_its_own(flags, rates):
    assert read(f"{flags} --instance_prompt <sks>").rates(rates, "unet", 1) == rates


def test_a_word_alone_has_as_many_updates_as_textual_inversion():
    assert read("--learn_identifier alone --instance_prompt <sks>").total_steps([5], 1) == 3000


@pytest.mark.parametrize("flags", ["--seed 1", "--learning_rate 1e-4", "--height 768", "--random_flip"])
def test_what_changes_an_update_changes_the_course(flags):
    assert read(flags).fingerprint(10, 1) != read().fingerprint(10, 1)


def test_a_lora_is_a_part_of_the_course_only_where_there_is_one():
    assert not {"lora_rank", "lora_alpha", "lora_dropout"} & read().fingerprint(10, 1).keys()
    fingerprint = read("--lora_rank 4").fingerprint(10, 1)
    assert (
        fingerprint["lora_alpha"],
        fingerprint["lora_dropout"],
        fingerprint["learning_rate"],
    ) == (4, 0.0, 1e-4)


def test_an_optimizer_that_finds_its_rate_has_a_factor_on_it():
    config = read("--optimizer prodigy")
    assert config.base_rate == 1 and not list(doubts.warnings(config))
    assert read("--optimizer prodigy --learning_rate 0.5 --lora_rank 4").base_rate == 0.5


def test_the_rate_that_is_taken_is_the_one_that_is_recorded():
    assert read().flat()["learning_rate"] == read().base_rate == 5e-6
    assert read("--lora_rank 4").flat()["learning_rate"] == 1e-4


def test_a_size_is_the_same_course_however_it_was_said():
    assert read("--resolution 768").fingerprint(10, 1) == read("--height 768 --width 768").fingerprint(10, 1)


def test_the_class_is_a_part_of_the_course_only_with_prior_preservation():
    assert read("--num_class_images 7").fingerprint(10, 1) == read().fingerprint(10, 1)
    assert read([*PRIOR, "--num_class_images", "7"]).fingerprint(10, 1) != read(PRIOR).fingerprint(10, 1)


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_the_runs_length_is_a_part_of_the_course_only_for_schedules_with_an_end(schedule):
    config = read(f"--lr_scheduler {schedule}")
    endless = schedule in ("constant", "constant_with_warmup")
    assert (config.fingerprint(10, 1) == config.fingerprint(20, 1)) == endless


def test_flat_values_come_back_as_they_went_in():
    config = read([*PRIOR, "--lora_rank", "4", "--learning_rate", "1e-3", "--validation_prompt", "x"])
    assert Config.from_flat(**config.flat()) == config


def test_a_setting_that_does_not_exist_is_no_silent_default():
    with pytest.raises(TypeError, match="train_batchsize"):
        small_config(train_batchsize=2)


def test_no_flag_is_in_two_sections():
    names = [each.name for section in SECTIONS.values() for each in dataclasses.fields(section)]
    assert len(names) == len(set(names))


def test_a_copy_with_a_seed_differs_in_the_seed_alone():
    config = read([*PRIOR, "--lora_rank", "4"])
    assert {**config.flat(), "seed": 7} == config.with_seed(7).flat()


@pytest.mark.parametrize("name", ["revision", "tokenizer_name", "mask_dir", "clip_model_path", "logging_dir"])
def test_a_name_that_is_empty_is_refused(name):
    """It is that of a shell's variable that is not set."""
    for empty in ("", " "):
        with pytest.raises(BadInput, match=f"^--{name}: it is empty; give it a value, or leave it out"):
            read(["--output_dir", "out", f"--{name}", empty])
    assert small_config(**{name: ""}).flat()[name] == ""  # as records of earlier versions have it, for none


def test_an_empty_validation_prompt_is_refused():
    with pytest.raises(BadInput, match="^--validation_prompt: it is empty"):
        read([*PRIOR, "--validation_prompt", "a dog", "--validation_prompt", " "])


def test_how_a_picture_is_fitted_counts_once_whatever_the_flag():
    plain, crop = read().fingerprint(10, 1), read("--center_crop").fingerprint(10, 1)
    assert read("--resize_mode squeeze").fingerprint(10, 1) == plain != crop
    assert read("--resize_mode crop").fingerprint(10, 1) == crop and "resize_mode" not in crop
    assert read("--resize_mode pad").fingerprint(10, 1) == {**plain, "resize_mode": "pad"}
    assert read("--unmasked_weight 0.5").fingerprint(10, 1) == plain  # without a mask
    assert read("--unmasked_weight 0.5 --mask_dir m").fingerprint(10, 1) == {**plain, "unmasked_weight": 0.5}


@pytest.mark.parametrize(
    "flags",
    ["--center_crop --resize_mode pad", "--mask_dir m --use_alpha", "--unmasked_weight 1.1", "--unmasked_weight -1"],
)
def test_settings_of_pictures_that_contradict_each_other_are_refused(flags):
    with pytest.raises(BadInput, match="can't be combined with|must be at"):
        read(flags)


def test_the_subject_stands_in_the_place_of_the_braces():
    config = read(
        ["--instance_prompt", "a photo of {}", "--subject", "sks dog", "--validation_prompt", "{} at night",
         "--validation_prompt", "a cat"]
    )  # fmt: skip
    assert config.concepts.instance_prompt == "a photo of sks dog"
    assert config.logging.validation_prompt == ("sks dog at night", "a cat")
    assert Config.from_flat(**config.flat()).flat() == config.flat()


@pytest.mark.parametrize("flags", [["--instance_prompt", "a {}"], ["--validation_prompt", "a {}", "--subject", " "]])
def test_braces_need_a_subject(flags):
    with pytest.raises(BadInput, match=r"^--(instance|validation)_prompt a {}: {} stands for the subject; give it, as"):
        read(flags)
