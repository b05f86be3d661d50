"""What the benchmarks measure: models by name, a run's command line, the machine, the table."""

import pytest

from benchmarks import subjects
from dreambooth.config.parser import read_config
from dreambooth.system.errors import BadInput


def test_mini_is_the_embedded_model_and_a_folder_itself(twin):
    assert subjects.folder_of("mini") == subjects.MINI and (subjects.MINI / "model_index.json").is_file()
    assert subjects.folder_of(str(twin)) == twin
    with pytest.raises(BadInput, match="--model"):
        subjects.folder_of("./nowhere")


def test_full_is_made_once(tmp_path, monkeypatch):
    made = []

    def build(command, **options):
        made.append(command)
        (tmp_path / "full").symlink_to(subjects.MINI)

    monkeypatch.setattr(subjects, "FULL", tmp_path / "full")
    monkeypatch.setattr(subjects.subprocess, "run", build)
    assert subjects.folder_of("full") == subjects.folder_of("full") == tmp_path / "full" and len(made) == 1


def test_the_command_line_is_one_that_the_tool_takes(twin, tmp_path):
    config = read_config(subjects.run_flags(twin, tmp_path, 64, 3, 5, "--lora_rank", "2"), "")
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
    from dreambooth.models import layouts

    subjects.build_full_size(tmp_path / "full")
    counts = {}
    for part in ("unet", "text_encoder", "vae"):
        path, _ = layouts.weights_of(tmp_path / "full" / part)
        assert path.suffix in (".pdparams", ".safetensors")
        if path.suffix == ".safetensors":
            counts[part] = sum(math.prod(entry.shape) for entry in safetensors.header(path).entries.values())
    assert json.loads((tmp_path / "full/unet/config.json").read_text())["cross_attention_dim"] == 768
    expected = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
    for part, count in counts.items():
        assert abs(count - expected[part]) < 100  # the positions' numbers count as weights in some versions
    assert counts
