"""The settings of drawing, as a training run puts them together from its flags."""

import pytest
from support.settings import small_config

import infer
from dreambooth.config.commands import DrawSettings, check_prompts
from dreambooth.system.errors import BadInput


@pytest.mark.parametrize("flag, name", [("own", None), ("euler", "euler")])
def test_a_run_draws_with_its_own_size_seed_and_flags(flag, name):
    drawing = dict(prior_scheduler=flag, prior_inference_steps=9)
    config = small_config(seed=7, mixed_precision="bf16", height=32, width=64, **drawing)
    assert config.draw_settings("class picture") == DrawSettings(
        seed=7,
        purpose="class picture",
        size=(32, 64),
        steps=9,
        guidance=7.5,
        scheduler=name,
        batch_size=4,
        negative_prompt=None,
        precision="bf16",
        steps_flag="--prior_inference_steps",
        scheduler_flag="--prior_scheduler",
        negative_flag="--class_negative_prompt",
    )


@pytest.mark.parametrize("name", ["image", "controlnet", "mask", "lora", "output_dir"])
def test_an_empty_name_is_no_way_to_leave_a_picture_out(name):
    with pytest.raises(BadInput, match=f"^--{name}: it is empty; give it a value, or leave it out"):
        infer.read_settings(["--model_path", "x", "--prompt", "a", f"--{name}", "", "--control_image", "a.png"])


@pytest.mark.parametrize(
    "prompts, is_warned_of",
    [
        (["a", "photo", "of", "sks", "dog"], True),
        (["sks", "dog"], True),
        (["dog"], False),
        (["sks dog", "dog"], False),
        (["一张sks狗的照片", "狗"], False),
    ],
)
def test_a_prompt_without_its_quotes_is_warned_of(capsys, prompts, is_warned_of):
    check_prompts(prompts)
    said = capsys.readouterr().err
    assert (f'put it into quotes: --prompt "{" ".join(prompts)}"' in said) == is_warned_of == bool(said)


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(BadInput, match="no UTF-8 text"):
        check_prompts(("a \udce9 dog",))
