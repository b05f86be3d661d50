"""Settings that can not be combined are refused in one line."""

import pytest
from test_config import PRIOR, read

from dreambooth.config.checks import doubts
from dreambooth.system.errors import BadInput


@pytest.mark.parametrize(
    "other",
    ["--gradient_accumulation_steps 2", "--max_grad_norm 1", "--mixed_precision fp16", "--optimizer prodigy"],
)
def test_an_early_update_is_refused_where_all_gradients_are_needed_at_once(other):
    for flags in (f"--early_update {other}", f"--fused_backward_pass {other}"):
        with pytest.raises(BadInput, match=rf"^--early_update can't be combined with {other}") as caught:
            read(flags)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", ["1e-7", "1e-8"])
def test_a_rate_that_is_not_above_the_polynomials_own_end_is_refused(rate):
    with pytest.raises(BadInput, match="--learning_rate"):
        read(f"--lr_scheduler polynomial --learning_rate {rate}")


@pytest.mark.parametrize("missing", ["--class_data_dir", "--class_prompt"])
def test_prior_preservation_needs_a_folder_and_a_prompt(missing):
    place = PRIOR.index(missing)
    for flags in (PRIOR[:place] + PRIOR[place + 2 :], [*PRIOR[: place + 1], " ", *PRIOR[place + 2 :]]):
        with pytest.raises(BadInput, match=missing):
            read(flags)


def test_keeping_the_class_by_prediction_needs_its_prompt_alone():
    by_prediction = read(["--prior_by_prediction", "--class_prompt", "a photo of a dog"])
    assert by_prediction.concepts.keeps_class and not list(doubts.warnings(by_prediction))
    assert by_prediction.fingerprint(10, 1).keys() >= {"class_prompt", "prior_loss_weight", "prior_by_prediction"}
    assert "num_class_images" not in by_prediction.fingerprint(10, 1)
    with pytest.raises(BadInput, match="--prior_by_prediction needs --class_prompt"):
        read("--prior_by_prediction")


@pytest.mark.parametrize("folder", ["pictures", "./pictures", "classes/../pictures"])
def test_the_class_has_a_folder_of_its_own(folder):
    with pytest.raises(BadInput, match="--class_data_dir"):
        read([*PRIOR, "--class_data_dir", folder])


@pytest.mark.parametrize("folder", ["model", "./model", "model/"])
def test_the_output_does_not_go_into_the_base_models_folder(folder):
    with pytest.raises(BadInput, match="--output_dir"):
        read(["--output_dir", folder])


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--keep_best", "--keep_best needs --validation_steps"),
        ("--validation_data_dir more", "--validation_data_dir needs --validation_steps"),
        ("--clip_model_path clip --validation_prompt x", "--clip_model_path needs --validation_steps"),
        ("--clip_model_path clip --validation_steps 5", "--clip_model_path needs --validation_prompt"),
        ("--validation_steps 5", "--validation_steps needs --validation_prompt, or --keep_best"),
        ("--patience 3 --validation_steps 5", "--patience needs --keep_best"),
        ("--clip_model_path= --validation_steps 5", "--clip_model_path: it is empty"),
    ],
)
def test_measures_need_validations(flags, said):
    with pytest.raises(BadInput, match=f"^{said}"):
        read(flags)


def test_a_lora_chooses_its_own_layers():
    with pytest.raises(BadInput, match="--trained_layers can't be combined with --lora_rank; --lora_targets"):
        read("--trained_layers time --lora_rank 4")
    with pytest.raises(BadInput, match=r"--trained_layers \(: no pattern"):
        read("--trained_layers (")


def test_validations_may_measure_and_draw_nothing():
    config = read("--validation_steps 5 --keep_best --patience 2")
    assert config.choosing.first == "--keep_best" and read().choosing.first is None
