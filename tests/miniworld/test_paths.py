"""The embedded model's files: all there, small and in half precision."""

import numpy as np
from safetensors import safe_open
from support.commands import ROOT

from dreambooth.models import pipeline_folder
from miniworld import paths


def test_the_paths_lead_to_the_embedded_parts():
    assert ROOT / "miniworld" == paths.FOLDER
    pipeline_folder.check(str(paths.MODEL))
    pipeline_folder.check(str(paths.UPSCALER))
    assert (paths.CLIP / "config.json").is_file() and paths.DETECTOR.is_file()


def test_all_weights_have_half_precision_and_few_bytes():
    files = [path for path in paths.FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    of_upscaler = [path for path in files if paths.UPSCALER in path.parents]
    assert sum(path.stat().st_size for path in files if path not in of_upscaler) <= 25e6
    assert sum(path.stat().st_size for path in of_upscaler) <= 10e6
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 8  # VAE, text encoder, UNet, CLIP, detector; the upscaler's first three
    for path in weights:
        with safe_open(path, "np") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype("float16")}  # noqa: SIM118
