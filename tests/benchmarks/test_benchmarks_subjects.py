"""What the benchmarks measure: models by name, a run's command line, the machine, the table."""

import pytest

from benchmarks import subjects
from dreambooth.config import parser as config_parser
from dreambooth.system.errors import BadInput


def test_mini_is_the_embedded_model_and_a_folder_itself(twin):
    assert subjects.find_folder("mini") == subjects.MINI and (subjects.MINI / "model_index.json").is_file()
    assert subjects.find_folder(str(twin)) == twin
    with pytest.raises(BadInput, match="--model"):
        subjects.find_folder("./nowhere")


@pytest.mark.parametrize("name", ["full", "xl"])
def test_models_with_random_weights_are_made_once(name, tmp_path, monkeypatch):
    made = []

    def build(command, **options):
        made.append(command)
        (tmp_path / name).symlink_to(subjects.MINI)

    monkeypatch.setattr(subjects, name.upper(), tmp_path / name)
    monkeypatch.setattr(subjects.subprocess, "run", build)
    assert subjects.find_folder(name) == subjects.find_folder(name) == tmp_path / name
    [[*_, code]] = made
    assert hasattr(subjects, code.split("subjects.")[1].split("(")[0]) and f"(subjects.{name.upper()})" in code


@pytest.mark.parametrize(
    "model, size, batch, factor",
    [("mini", 64, 4, 4), ("full", 256, 1, 8), ("xl", 1024, 1, 8), ("FOLDER", 512, 4, 8)],
)
def test_a_subject_has_the_defaults_of_its_model(twin, monkeypatch, model, size, batch, factor):
    for name in ("FULL", "XL"):
        monkeypatch.setattr(subjects, name, subjects.MINI)
    parser = subjects.make_parser("test", None)
    subjects.add_run_flags(parser)
    name = model.replace("FOLDER", str(twin))
    subject = subjects.subject_of(parser.parse_args(["--model", name]), with_xl=True)
    assert (subject.name, subject.size, subject.batch, subject.factor) == (name, size, batch, factor)
    assert subject.is_full == (model == "full") and subject.is_xl == (model == "xl")
    subject = subjects.subject_of(
        parser.parse_args(["--model", name, "--batch", "2", "--resolution", "128"]), with_xl=True
    )
    assert (subject.size, subject.batch, subject.factor) == (128, 2, factor)


def test_the_shape_of_xl_is_for_the_benchmark_of_memory_alone():
    with pytest.raises(BadInput, match="--model xl"):
        subjects.subject_of(subjects.make_parser("test", None).parse_args(["--model", "xl"]))


def test_without_flags_of_a_run_the_defaults_stand():
    subject = subjects.subject_of(subjects.make_parser("test", None).parse_args([]))
    assert subject == subjects.Subject("mini", subjects.MINI, 64, 4, 4)


def test_the_command_line_is_one_that_the_tool_takes(twin, tmp_path):
    subject = subjects.Subject("twin", twin, 64, 3, 8)
    config = config_parser.read_config(subjects.command_line(subject, tmp_path, 5, "--lora_rank", "2"), "")
    assert (
        config.pictures.size,
        config.optimizer.train_batch_size,
        config.optimizer.max_train_steps,
        config.lora.lora_rank,
    ) == ((64, 64), 3, 5, 2)


def test_the_table_names_the_machine_and_the_versions():
    lines = subjects.table(["", "a"], [["b", 1]]).splitlines()
    assert lines[:3] == ["|  | a |", "| --- | --- |", "| b | 1 |"]
    assert "cores" in lines[-1] and "paddlepaddle" in lines[-1] and "Python 3." in lines[-1]


def test_median():
    assert subjects.median([3, 1, 2]) == 2 and subjects.median([4, 1, 2, 3]) == 2.5


@pytest.mark.slow
def test_the_full_size_model_has_the_shape_of_stable_diffusion(tmp_path):
    """859.5 million weights in the UNet, 123.1 in the text encoder, 83.7 in the VAE, as the original has."""
    import json
    import math

    from dreambooth.files import safetensors

    subjects.build_full_size(tmp_path / "full")
    counts = {}
    for part in ("unet", "text_encoder", "vae"):
        [path] = (tmp_path / "full" / part).glob("*.safetensors")
        counts[part] = sum(math.prod(entry.shape) for entry in safetensors.header(path).entries.values())
    assert json.loads((tmp_path / "full/unet/config.json").read_text())["cross_attention_dim"] == 768
    expected = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
    for part, count in counts.items():
        assert abs(count - expected[part]) < 100  # the positions' numbers count as weights in some versions
    assert counts
