"""The whole road on a twin of each architecture in the table of models: class pictures, training, checkpoint and
resume, the saved pipeline, drawing."""

import numpy as np
import pytest
from PIL import Image
from support.commands import command_line, python, train
from support.slowly import mostly_slow
from support.twins import build_twin
from support.weights import assert_same, weights

import infer

# the models' names -> how their twin is built
ARCHITECTURES = {
    "CompVis/stable-diffusion-v1-4": {},
    "stabilityai/stable-diffusion-2-1-base": {
        "text": "open_clip",
        "use_linear_projection": True,
        "attention_head_dim": (2, 4),
    },
    "stabilityai/stable-diffusion-2-1": {
        "text": "open_clip",
        "use_linear_projection": True,
        "attention_head_dim": (2, 4),
        "prediction_type": "v_prediction",
        "scheduler": "DDIMScheduler",
    },
    "IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1": {"text": "bert"},
    "BAAI/AltDiffusion": {"text": "roberta"},
}
PROMPTS = dict.fromkeys(("bert", "roberta"), ("一张sks狗的照片", "一张狗的照片"))


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda name: name.split("/")[1])
def model(request, tmp_path_factory):
    """(a twin's folder, the prompt of the subject, that of the class)."""
    settings = ARCHITECTURES[request.param]
    prompts = PROMPTS.get(settings.get("text"), ("a photo of sks dog", "a photo of a dog"))
    return build_twin(tmp_path_factory.mktemp("model") / "twin", **settings), *prompts


@pytest.mark.parametrize("train_text_encoder", mostly_slow([True, None]), ids=["text-encoder", "unet"])
def test_the_whole_road(model, train_text_encoder, pictures, tmp_path, monkeypatch):
    from ppdiffusers import StableDiffusionPipeline

    twin, prompt, of_class = model
    monkeypatch.chdir(tmp_path)

    def run(folder, **changes):
        flags = dict(
            instance_prompt=prompt,
            with_prior_preservation=True,
            class_data_dir="class",
            class_prompt=of_class,
            num_class_images=2,
            train_text_encoder=train_text_encoder,
            max_train_steps=3,
        )
        train(command_line(twin, pictures, folder, **flags | changes))

    # class pictures carry their prompt
    run("whole")
    drawn = sorted((tmp_path / "class").glob("*/*.png"))
    assert len(drawn) == 2
    with Image.open(drawn[0]) as picture:
        assert picture.size == (32, 32) and picture.info["prompt"] == of_class

    # a stopped run goes on bit for bit
    run("parts", max_train_steps=2, save_steps=2)
    run("parts", resume_from_checkpoint="latest")
    learned = ("unet", "text_encoder") if train_text_encoder else ("unet",)
    for part in learned:
        assert_same(tmp_path / "whole" / part, tmp_path / "parts" / part)

    # what learned has changed, and what did not is as it was
    for part in ("unet", "text_encoder", "vae"):
        before, after = weights(twin / part), weights(tmp_path / "whole" / part)
        changed = [name for name in before if not np.array_equal(before[name], after[name])]
        assert bool(changed) == (part in learned)
    assert (tmp_path / "whole/scheduler/scheduler_config.json").read_text() == (
        twin / "scheduler/scheduler_config.json"
    ).read_text()

    # the library loads it, and infer.py draws with it
    StableDiffusionPipeline.from_pretrained(str(tmp_path / "whole"))
    infer.main(["--model_path", "whole", "--prompt", prompt, "--num_inference_steps", "3"])
    [drawn] = (tmp_path / "outputs").glob("*.png")
    with Image.open(drawn) as picture:
        assert picture.info["prompt"] == prompt and picture.size == (32, 32)


def test_chinese_is_utf8_whatever_the_locale(bert_twin, pictures, tmp_path):
    flags = command_line(bert_twin, pictures, tmp_path / "out", instance_prompt="一张sks狗的照片", max_train_steps=1)
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = python("train_dreambooth.py", *flags, **plain)
    assert done.returncode == 0, done.stderr
    assert "一张sks狗的照片" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    drawn = python(
        "infer.py", "--model_path", tmp_path / "out", "--prompt", "一张sks狗的照片", "--num_inference_steps", 2,
        "--output_dir", tmp_path / "drawn", **plain,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    [path] = (tmp_path / "drawn").glob("*.png")
    assert path.name.startswith("一张sks狗的照片")
