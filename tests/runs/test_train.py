"""Whole runs on the twins: what comes out, that it is learned, and that a run does not depend on how it is split."""

import json
import shutil

import numpy as np
import paddle
import pytest
from support import reads
from support.commands import command_line, launch, python, train
from support.families import load_family
from support.pictures import draw_pictures
from support.slowly import mostly_slow
from support.weights import assert_same, largest_difference, mean_difference, weights

from dreambooth.files import records
from dreambooth.system import machine
from dreambooth.system.errors import BadInput
from dreambooth.training.encodings import Encodings

# Splitting a batch changes the order in which float32 numbers are added: the gradients differ by about 1e-7 of their
# size. AdamW divides by the gradient's own size, so a weight whose gradient is nearly nought, such as a bias in front
# of a group norm, can move by a whole learning rate (1e-3) in either direction. So it is the mean difference that is
# bounded, as a part of the mean difference to a run with another seed.
SPLIT_TOLERANCE = 1e-2


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


PIPELINE = {
    "model_index.json",
    "README.md",
    "training_args.json",
    "progress.jsonl",
    "report.html",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
}


@pytest.mark.parametrize(
    "save_format, unet, text",
    [
        ("pdparams", "model_state.pdparams", "model_state.pdparams"),
        ("safetensors", "diffusion_paddle_model.safetensors", "model.safetensors"),
    ],
)
def test_the_output_folder_holds_exactly_a_pipeline_and_its_log(flags, tmp_path, save_format, unet, text):
    train(flags(save_format=save_format))
    weights = {f"unet/{unet}", f"vae/{unet}", f"text_encoder/{text}"}
    files = files_in(tmp_path / "out")
    logs = {name for name in files if name.startswith("logs/vdlrecords")}
    assert len(logs) == 1
    assert files - logs == PIPELINE | weights
    load_and_draw(tmp_path / "out")


def load_and_draw(folder):
    from ppdiffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(folder))
    [image] = pipeline("a photo of sks dog", height=32, width=32, num_inference_steps=2).images
    assert image.size == (32, 32)
    return pipeline


def test_only_the_unet_changes_and_the_scheduler_stays_the_models_own(flags, twin, tmp_path):
    train(flags())
    out = tmp_path / "out"
    assert largest_difference(twin / "unet", out / "unet") > 0
    for part in ("vae", "text_encoder"):
        assert_same(twin / part, out / part)
    assert json.loads((out / "scheduler/scheduler_config.json").read_text())["_class_name"] == "PNDMScheduler"


def test_the_text_encoder_learns_where_it_is_asked_to(flags, twin, tmp_path):
    train(flags(train_text_encoder=True))
    assert largest_difference(twin / "text_encoder", tmp_path / "out/text_encoder") > 0


@pytest.mark.parametrize("train_text_encoder", [None, True])
def test_v_prediction_and_bert_twins_train_and_draw(velocity_twin, bert_twin, pictures, tmp_path, train_text_encoder):
    prompts = {velocity_twin: "a photo of sks dog", bert_twin: "一张sks狗的照片"}
    for index, (model, prompt) in enumerate(prompts.items()):
        out = tmp_path / str(index)
        train(command_line(model, pictures, out, instance_prompt=prompt, train_text_encoder=train_text_encoder))
        pipeline = load_and_draw(out)
        assert pipeline.scheduler.config.prediction_type == ("v_prediction" if model == velocity_twin else "epsilon")
        changed = largest_difference(model / "text_encoder", out / "text_encoder") > 0
        assert changed == bool(train_text_encoder)


def test_two_runs_with_one_seed_are_bit_identical_and_another_seed_is_not(flags, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(flags(output_dir=tmp_path / name, seed=seed, random_flip=True, train_text_encoder=True))
    for network in ("unet", "text_encoder"):
        assert_same(tmp_path / "a" / network, tmp_path / "b" / network)
        assert largest_difference(tmp_path / "a" / network, tmp_path / "c" / network) > 0


SPLITS = {
    "2x2": dict(train_batch_size=2, gradient_accumulation_steps=2),
    "1x4": dict(train_batch_size=1, gradient_accumulation_steps=4),
}


def test_an_update_is_the_same_however_its_batch_is_split(flags, class_pictures, tmp_path):
    common = dict(
        with_prior_preservation=True,
        class_data_dir=class_pictures,
        class_prompt="a photo of a dog",
        num_class_images=4,
        random_flip=True,
        max_train_steps=3,
    )
    whole, other = tmp_path / "whole", tmp_path / "other"
    train(flags(output_dir=whole, train_batch_size=4, **common))
    train(flags(output_dir=other, train_batch_size=4, **common, seed=1))
    floor = mean_difference(whole / "unet", other / "unet")
    for name, split in SPLITS.items():
        train(flags(output_dir=tmp_path / name, **common, **split))
        assert mean_difference(whole / "unet", tmp_path / name / "unet") < SPLIT_TOLERANCE * floor, name
    done = launch(
        tmp_path, "train_dreambooth.py", *flags(output_dir=tmp_path / "processes", train_batch_size=2, **common)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert mean_difference(whole / "unet", tmp_path / "processes/unet") < SPLIT_TOLERANCE * floor


@pytest.mark.parametrize("lora_rank", mostly_slow([None, 2]))
def test_an_update_is_the_same_however_many_workers_share_it(flags, class_pictures, tmp_path, monkeypatch, lora_rank):
    common = dict(
        with_prior_preservation=True,
        class_data_dir=class_pictures,
        class_prompt="a photo of a dog",
        num_class_images=4,
        train_batch_size=2,
        gradient_accumulation_steps=2,
        train_text_encoder=True,
        max_grad_norm=1.0,
        lora_rank=lora_rank,
        lora_dropout=0.5 if lora_rank else None,
        lora_merge=True if lora_rank else None,
    )
    train(flags(output_dir=tmp_path / "alone", **common))
    train(flags(output_dir=tmp_path / "another seed", **common, seed=1))
    for name, workers in (("2", 2), ("3", 3), ("3 again", 3)):
        monkeypatch.setattr(machine, "split", lambda weights, workers=workers: machine.Split(workers, 1))
        train(flags(output_dir=tmp_path / name, **common))
    for part in ("unet", "text_encoder"):
        alone = tmp_path / "alone" / part
        floor = mean_difference(alone, tmp_path / "another seed" / part)
        assert floor > 0
        for name in ("2", "3"):
            assert mean_difference(alone, tmp_path / name / part) < SPLIT_TOLERANCE * floor
        assert_same(tmp_path / "3" / part, tmp_path / "3 again" / part)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_with_workers_is_resumed_bit_for_bit_and_another_split_is_pointed_out(
    flags, tmp_path, monkeypatch, capsys, workers
):
    common = dict(train_batch_size=4, save_steps=1, max_train_steps=3)
    monkeypatch.setattr(machine, "split", lambda weights: machine.Split(2, 1))
    train(flags(output_dir=tmp_path / "whole", **common))
    checkpoint = tmp_path / "whole/checkpoint-2"
    assert "2 workers" in capsys.readouterr().out
    train(flags(output_dir=tmp_path / "again", resume_from_checkpoint=checkpoint, **common))
    assert_same(tmp_path / "whole/unet", tmp_path / "again/unet")
    assert "another machine" not in capsys.readouterr().err
    monkeypatch.setattr(machine, "split", lambda weights, workers=workers: machine.Split(workers, 1))
    train(flags(output_dir=tmp_path / "other", resume_from_checkpoint=checkpoint, **common))
    assert "the checkpoint was made on another machine or split" in capsys.readouterr().err


def test_a_resumed_run_says_what_is_another_than_the_checkpoints(flags, tmp_path, capsys):
    train(flags(no_last_checkpoint=None))
    path = tmp_path / "out/checkpoint-2/state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    unsealed = {name: each for name, each in state.items() if name != "checksum"}
    record = state["arguments"]
    now = record["versions"]["ppdiffusers"]
    card = {"card": "NVIDIA A100", "capability": "8.0", "cuda": "12.6", "driver": "560.1"}
    old, on_card = {"versions": {**record["versions"], "ppdiffusers": "0.24.0", "python": "3.10.1"}}, {"machine": card}
    with_libraries = f"with ppdiffusers 0.24.0 (now {now})"
    on_another = "on another machine or split (NVIDIA A100, compute capability 8.0, CUDA 12.6, driver 560.1; now "
    without = {name: each for name, each in record.items() if name not in ("versions", "machine")}
    for arguments, made in (
        (record, None),
        ({**record, **old}, f"{with_libraries}, so the last bits"),
        ({**record, **on_card}, on_another),
        ({**record, **old, **on_card}, f"{with_libraries} and {on_another}"),
        (without, None),
    ):
        path.write_text(json.dumps(records.sealed({**unsealed, "arguments": arguments})), encoding="utf-8")
        capsys.readouterr()
        train(flags(max_train_steps=3, resume_from_checkpoint="latest", dry_run=True))
        lines = [line for line in capsys.readouterr().err.splitlines() if "the checkpoint was made" in line]
        assert len(lines) == bool(made)
        assert not made or lines[0].startswith(f"warning: the checkpoint was made {made}")


@pytest.mark.parametrize("train_text_encoder", [None, True])
def test_a_resumed_run_is_bit_identical_to_one_that_was_not_stopped(flags, tmp_path, train_text_encoder):
    common = dict(
        max_train_steps=4,
        train_text_encoder=train_text_encoder,
        random_flip=True,
        lr_scheduler="cosine",
        lr_warmup_steps=1,
        max_grad_norm=1.0,
        train_batch_size=2,
    )
    train(flags(output_dir=tmp_path / "whole", save_steps=1, checkpoints_total_limit=0, **common))
    for step in (1, 2, 3):
        again = tmp_path / f"from {step}"
        checkpoint = tmp_path / f"whole/checkpoint-{step}"
        train(flags(output_dir=again, resume_from_checkpoint=checkpoint, save_steps=1, **common))
        for network in ("unet", "text_encoder"):
            assert_same(tmp_path / "whole" / network, again / network)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_average_is_what_is_saved_and_drawn_with(flags, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(machine, "split", lambda weights, workers=workers: machine.Split(workers, 1))
    drawn = dict(validation_prompt="a photo of sks dog", num_validation_images=1, validation_steps=2)
    common = dict(max_train_steps=3, train_batch_size=2, save_steps=1, learning_rate=1e-3)
    train(flags(output_dir=tmp_path / "plain", **common))
    train(flags(output_dir=tmp_path / "averaged", ema_decay=0.5, save_format="safetensors", **common, **drawn))
    learned = [weights(tmp_path / f"plain/checkpoint-{step}/unet") for step in (1, 2, 3)]
    saved, at_end = weights(tmp_path / "averaged/unet"), weights(tmp_path / "averaged/checkpoint-3/unet")
    for name, last in learned[2].items():
        # the drawing on the way has left the weights as they were
        assert np.array_equal(last, at_end[name])
        expected = (learned[0][name] + 2 * learned[1][name] + 4 * last) / 7
        np.testing.assert_allclose(saved[name], expected, rtol=1e-4, atol=1e-6)
    assert any(not np.allclose(saved[name], last, atol=1e-5) for name, last in learned[2].items())
    # a resumed run ends with the same average, and one without the flag is another run
    again = dict(common, output_dir=tmp_path / "again", resume_from_checkpoint=tmp_path / "averaged/checkpoint-2")
    with pytest.raises(BadInput, match="ema_decay: 0.5 then, None now"):
        train(flags(**again))
    train(flags(ema_decay=0.5, save_format="safetensors", **again, **drawn))
    assert_same(tmp_path / "averaged/unet", tmp_path / "again/unet")
    names = sorted(path.name for path in (tmp_path / "averaged/samples").iterdir())
    for name in names:
        if "step-3" in name:
            assert (tmp_path / "averaged/samples" / name).read_bytes() == (
                tmp_path / "again/samples" / name
            ).read_bytes()
    assert len(names) == 2


def test_a_run_may_begin_to_average_where_it_is_resumed(flags, tmp_path, capsys):
    common = dict(max_train_steps=3, save_steps=1, learning_rate=1e-3, save_format="safetensors")
    train(flags(output_dir=tmp_path / "whole", **common))
    changed = dict(resume_from_checkpoint=tmp_path / "whole/checkpoint-2", allow_changes=True, ema_decay=0.9)
    train(flags(output_dir=tmp_path / "out", **common, **changed))
    assert "ema_decay: None then, 0.9 now" in capsys.readouterr().err
    assert_same(tmp_path / "whole/unet", tmp_path / "out/unet")  # the average of one update


def test_a_run_resumed_on_another_split_of_the_same_global_batch_goes_on(flags, tmp_path):
    train(flags(train_batch_size=2, save_steps=2))
    train(flags(gradient_accumulation_steps=2, max_train_steps=3, resume_from_checkpoint="latest"))
    assert json.loads((tmp_path / "out/training_args.json").read_text())["steps"] == 3


@pytest.mark.parametrize("extra", [dict(), dict(random_flip=True, dataloader_num_workers=2)])
def test_the_cache_changes_nothing_but_the_work(flags, tmp_path, extra):
    common = dict(max_train_steps=3, train_batch_size=2, **extra)
    train(flags(output_dir=tmp_path / "cached", **common))
    train(flags(output_dir=tmp_path / "not", no_cache_latents=True, **common))
    train(flags(output_dir=tmp_path / "other", seed=1, **common))
    floor = mean_difference(tmp_path / "cached/unet", tmp_path / "other/unet")
    assert mean_difference(tmp_path / "cached/unet", tmp_path / "not/unet") < SPLIT_TOLERANCE * floor


@pytest.mark.parametrize("train_text_encoder", [None, True])
def test_gradient_checkpointing_changes_nothing_but_memory(flags, bert_twin, tmp_path, train_text_encoder):
    for model in (None, bert_twin):
        folders = [tmp_path / f"{name}-{model is None}" for name in ("with", "without")]
        for folder in folders:
            changes = dict(output_dir=folder, train_text_encoder=train_text_encoder, max_train_steps=2)
            if model:
                changes["pretrained_model_name_or_path"] = model
            train(flags(**changes, gradient_checkpointing=folder.name.startswith("with-") or None))
        assert_same(folders[0] / "unet", folders[1] / "unet")


def test_five_pictures_with_accumulation_eight_make_as_many_updates_as_asked(flags, twin, tmp_path):
    train(flags(gradient_accumulation_steps=8, max_train_steps=3, save_steps=1))
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (1, 2, 3)}
    assert largest_difference(twin / "unet", tmp_path / "out/unet") > 0


def test_one_picture_is_learned(flags, twin, tmp_path):
    """The loss on noise that training never saw falls to under half."""
    one = draw_pictures(tmp_path / "one", 1)
    train(flags(instance_data_dir=one, max_train_steps=60, train_batch_size=4, learning_rate=5e-3, logging_steps=50))
    before, after = fixed_loss(twin, one), fixed_loss(tmp_path / "out", one)
    assert after < before / 2, (before, after)


def fixed_loss(model, folder):
    """The diffusion loss of a saved model on one picture, over fixed noise at 16 timesteps."""
    import paddle

    from dreambooth.data import picture_files, transforms
    from dreambooth.data.concepts import View
    from dreambooth.training.objective.diffusion import diffusion_for

    family = load_family(model)
    [picture] = folder.iterdir()
    pixels = transforms.to_pixels(picture_files.open_picture(picture), View((40, 40), (32, 32)))
    numbers = np.random.default_rng(12345)
    with paddle.no_grad():
        latents = (
            family.encode_pictures(paddle.to_tensor(pixels[None]))["mean"].tile([16, 1, 1, 1]) * family.space.scale
        )
        noise = paddle.to_tensor(numbers.standard_normal(latents.shape, dtype=np.float32))
        timesteps = paddle.arange(30, 990, 60)
        hidden = family.encode_prompts(["a photo of sks dog"])["hidden"].tile([16, 1, 1])
        noisy = diffusion_for(family.pipeline.scheduler).add_noise(latents, noise, timesteps)
        predicted = family.predict(noisy, timesteps, {"hidden": hidden})
        return float((predicted - noise).square().mean())


def test_the_dry_run_prints_the_plan_and_writes_nothing(flags, tmp_path):
    done = python("train_dreambooth.py", *flags(dry_run=True, with_prior_preservation=True, num_class_images=3,
                  class_data_dir=tmp_path / "class", class_prompt="a photo of a dog"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 of them still to be drawn" in done.stdout
    for line in (
        "model ",
        "pictures  5",
        "learning  unet: 0.3 million",
        "steps     2",
        "seed      0",
        "memory    about",
    ):
        assert line in done.stdout
    assert not (tmp_path / "out").exists() and not (tmp_path / "class").exists()


def test_a_run_prints_its_lines_and_nothing_else(flags, tmp_path):
    done = python("train_dreambooth.py", *flags(output_dir=tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    starts = [line.split()[0] for line in done.stdout.splitlines()]
    plan = ["model", "pictures", "prompt", "learning", "steps", "rate", "seed", "device", "memory", "log", "disk"]
    assert starts == [*plan, "done", "pipeline"]
    warning, *bars = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert warning.startswith("warning: --max_train_steps 2: 2 updates seldom teach a subject")
    assert bars and all(line.startswith(("Encoding:", "Training:")) for line in bars), done.stderr
    command = done.stdout.splitlines()[-1].split("to draw with it: ")[1]
    assert "infer.py --model_path" in command and '--prompt "a photo of sks dog"' in command


def test_without_a_seed_one_is_chosen_printed_and_recorded(flags, tmp_path, capsys):
    train(flags(seed=None))
    seed = json.loads((tmp_path / "out/training_args.json").read_text())["flags"]["seed"]
    assert isinstance(seed, int) and f"seed      {seed}" in capsys.readouterr().out


def test_the_arguments_tell_how_to_make_it_again(flags, tmp_path):
    train(flags())
    record = json.loads((tmp_path / "out/training_args.json").read_text())
    assert record["flags"]["learning_rate"] == 1e-3 and record["steps"] == 2
    [concept] = record["concepts"]
    assert [each["name"] for each in concept["pictures"]] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert all(len(each["sha256"]) == 64 for each in concept["pictures"])
    assert {"ppdiffusers", "paddlenlp", "numpy", "python"} <= record["versions"].keys()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(flags, tmp_path):
    changes = dict(learning_rate=1e30, max_train_steps=20, save_steps=1)
    done = python("train_dreambooth.py", *flags(**changes))
    assert done.returncode == 1
    [line] = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("error:")]
    assert "the loss is not finite at step" in line and "1e+30" in line and "checkpoint-" in line
    assert list((tmp_path / "out").glob("checkpoint-*")) and not (tmp_path / "out/model_index.json").exists()


def test_weights_that_are_no_numbers_are_never_saved(flags, tmp_path, monkeypatch):
    from dreambooth.system.errors import Stopped
    from dreambooth.training.updates import Updates

    monkeypatch.setattr(Updates, "has_finite_weights", lambda updates: False)
    with pytest.raises(Stopped, match="the weights are not finite at step 2"):
        train(flags())
    assert not (tmp_path / "out/model_index.json").exists() and not list((tmp_path / "out").glob("checkpoint-*"))


def test_what_was_learned_outlives_a_pipeline_that_can_not_be_finished(flags, tmp_path, monkeypatch, capsys):
    from dreambooth.run import output_folder

    def fail(*more):
        raise OSError("the hub went away")

    monkeypatch.setattr(output_folder, "save_result", fail)
    with pytest.raises(OSError):
        train(flags())
    assert (tmp_path / "out/checkpoint-2/state.json").exists() and "has the trained weights" in capsys.readouterr().err


def test_the_masks_of_the_examples_reach_the_loss(flags, monkeypatch, tmp_path):
    """A mask of ones changes nothing, and one that hides a half of each picture does."""

    def left(encodings, batch):
        mask = np.ones([1, 1, *encodings.latents(batch).shape[2:]], np.float32)
        mask[..., mask.shape[-1] // 2 :] = 0
        return paddle.to_tensor(mask)

    train(flags(output_dir=tmp_path / "none", max_train_steps=1))
    for name, masks in (("whole", lambda encodings, batch: paddle.ones([1, 1, 1, 1])), ("left", left)):
        monkeypatch.setattr(Encodings, "masks", masks)
        train(flags(output_dir=tmp_path / name, max_train_steps=1))
    assert_same(tmp_path / "none/unet", tmp_path / "whole/unet")
    assert largest_difference(tmp_path / "none/unet", tmp_path / "left/unet") > 0


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True, "train_text_encoder": True}])
def test_an_early_update_changes_nothing_but_memory(flags, tmp_path, changes):
    """Resumed without it halfway, too."""
    common = dict(**changes, max_train_steps=4, save_steps=2)
    train(flags(output_dir=tmp_path / "plain", **common))
    train(flags(output_dir=tmp_path / "early", early_update=True, **common))
    train(flags(output_dir=tmp_path / "mixed", early_update=True, **{**common, "max_train_steps": 2}))
    shutil.copytree(tmp_path / "early/checkpoint-2", tmp_path / "mixed/checkpoint-2", dirs_exist_ok=True)
    train(flags(output_dir=tmp_path / "mixed", resume_from_checkpoint="checkpoint-2", **common))
    for name in ("early", "mixed"):
        for part in ("unet", "text_encoder", "checkpoint-4"):
            assert_same(tmp_path / "plain" / part, tmp_path / name / part)


def test_gradients_are_exchanged_once_for_each_update(flags, monkeypatch):
    from dreambooth.system import processes

    calls = []
    monkeypatch.setattr(processes, "average_gradients", lambda parameters: calls.append(len(list(parameters))))
    train(flags(gradient_accumulation_steps=4, gradient_checkpointing=True, max_train_steps=3))
    assert len(calls) == 3 and min(calls) > 0


def test_an_update_that_overflows_is_done_again_and_the_steps_stay_those_asked_for(flags, monkeypatch, tmp_path):
    """As GradScaler does it with fp16 on a card: the first updates make none."""
    from dreambooth.training.updates import Updates

    made = []

    def step(updates, norm, real=Updates.step):
        made.append(len(made) >= 2)
        if not made[-1]:
            updates.optimizers[0].clear_grad(set_to_zero=False)
            return False
        return real(updates, norm)

    train(flags(output_dir=tmp_path / "smooth"))
    monkeypatch.setattr(Updates, "step", step)
    train(flags())
    assert made == [False, False, True, True]
    assert_same(tmp_path / "smooth/unet", tmp_path / "out/unet")


def test_mixed_precision_on_the_cpu_says_that_it_is_not_used(flags, tmp_path):
    done = python("train_dreambooth.py", *flags(mixed_precision="fp16"))
    assert done.returncode == 0
    assert "--mixed_precision fp16" in done.stderr and "float32" in done.stderr


def test_an_early_update_makes_the_run_of_one_worker_and_says_so(flags, tmp_path, monkeypatch, capfd):
    more = dict(train_text_encoder=True, train_batch_size=2, gradient_checkpointing=True)
    monkeypatch.setattr(machine, "_environment", {"OMP_NUM_THREADS": "1"})
    train(flags(**more))
    assert "--early_update" not in capfd.readouterr().err
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "_environment", {})
    train(flags(**more, early_update=True, output_dir=tmp_path / "early"))
    assert "--early_update: one core" in capfd.readouterr().err
    for part in ("unet", "text_encoder"):
        assert_same(tmp_path / "out" / part, tmp_path / "early" / part)


@pytest.mark.parametrize("optimizer", ["adamw8bit", "adafactor"])
@pytest.mark.parametrize("changes", [dict(), dict(early_update=True), dict(lora_rank=2, train_text_encoder=True)])
def test_a_lean_optimizer_resumes_bit_for_bit(flags, tmp_path, capsys, optimizer, changes):
    common = dict(
        optimizer=optimizer, max_train_steps=3, learning_rate=1e-3, save_steps=1, train_batch_size=2, **changes
    )
    train(flags(output_dir=tmp_path / "whole", checkpoints_total_limit=0, **common))
    checkpoint = tmp_path / "whole/checkpoint-1"
    sizes = {path.name: path.stat().st_size for path in checkpoint.rglob("*.safetensors")}
    if not changes:
        most = 1.2 if optimizer == "adamw8bit" else 0.2  # this tiny network has many small weights, which stay float32
        assert sizes["optimizer.safetensors"] < most * sizes["diffusion_paddle_model.safetensors"]
    train(flags(output_dir=tmp_path / "again", resume_from_checkpoint=checkpoint, **common))
    for part in ("unet", "text_encoder") if changes.get("train_text_encoder") else ("unet",):
        assert_same(tmp_path / "whole/checkpoint-3" / part, tmp_path / "again/checkpoint-3" / part)
    with pytest.raises(BadInput, match=f"optimizer: '{optimizer}' then, None now"):
        train(
            flags(output_dir=tmp_path / "third", resume_from_checkpoint=checkpoint, **{**common, "optimizer": "adamw"})
        )


@pytest.mark.parametrize("optimizer", ["adamw8bit", "adafactor"])
def test_workers_share_an_update_of_a_lean_optimizer(flags, tmp_path, monkeypatch, optimizer):
    found = []
    for workers in (1, 2):
        monkeypatch.setattr(machine, "split", lambda weights, workers=workers: machine.Split(workers, 1))
        out = tmp_path / str(workers)
        train(
            flags(output_dir=out, optimizer=optimizer, max_train_steps=3, train_batch_size=2, save_format="safetensors")
        )
        found.append(weights(out / "unet"))
    for name, one in found[0].items():
        np.testing.assert_allclose(one, found[1][name], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("one, other", [("adamw", "adamw8bit"), ("adamw8bit", "adafactor"), ("adafactor", "adamw")])
def test_another_optimizer_begins_anew_where_changes_are_allowed(flags, tmp_path, capsys, one, other):
    common = dict(max_train_steps=2, save_steps=1)
    train(flags(optimizer=one, output_dir=tmp_path / "one", **common))
    checkpoint = tmp_path / "one/checkpoint-1"
    train(flags(optimizer=other, resume_from_checkpoint=checkpoint, allow_changes=True, **common))
    assert (
        f"--optimizer {other}: the checkpoint has the state of {one}, so this one begins anew"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("changes", [{}, {"max_grad_norm": 1.0}, {"optimizer": "adafactor", "ema_decay": 0.9}])
def test_a_step_waits_for_the_card_once(flags, tmp_path, monkeypatch, changes):
    """For its loss, which has to be finite; what is logged beside it comes along, or waits for its turn."""
    monkeypatch.setattr(machine, "split", lambda weights: machine.Split(1, 1))
    counts = []
    for number in (3, 5):
        with reads.counted() as found:
            train(flags(max_train_steps=number, logging_steps=100, output_dir=tmp_path / str(number), **changes))
        counts.append(len(found))
    assert counts[1] - counts[0] == 2
