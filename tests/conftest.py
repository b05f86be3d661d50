"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest
from support.commands import command_line
from support.disks import mounted
from support.families import load_pipeline
from support.hubs import serving
from support.pictures import draw_pictures
from support.twins import (
    build_inpainting,
    build_pixels,
    build_pixels_upscaler,
    build_sd3,
    build_twin,
    build_unidiffuser,
    build_upscaler,
    build_xl,
)

from dreambooth.files import weight_files
from dreambooth.models import saving
from dreambooth.system import libraries

# several tests run at once: each has one core, and those of workers and threads say so
os.environ.setdefault("OMP_NUM_THREADS", "1")
libraries.load(weight_files.READERS)
# a flush protects from a power cut alone, and the disk takes a third of the tests' time for it; test_atomic counts them
os.fsync = lambda descriptor: None


QUICK = ("tests", "config", "data", "training")  # folders without runs of whole commands


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--torch_python", help="a Python with torch, diffusers, transformers and peft, to compare with")
    parser.addoption("--study", help="a folder of miniworld.study, whose finished runs need not be made again")


def pytest_collection_modifyitems(config, items):
    # short tests at the end, so that the processes that share the files end at about the same time
    items.sort(key=lambda item: Path(str(item.path)).parent.name in QUICK)
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; give --slow to run it"))


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    return build_twin(tmp_path_factory.mktemp("clip") / "twin")


@pytest.fixture(scope="session")
def velocity_twin(tmp_path_factory):
    """As Stable Diffusion 2: OpenCLIP's text encoder, linear projections, velocity prediction, DDIM."""
    return build_twin(
        tmp_path_factory.mktemp("velocity") / "twin",
        text="open_clip",
        prediction_type="v_prediction",
        scheduler="DDIMScheduler",
        use_linear_projection=True,
        attention_head_dim=(2, 4),
    )


@pytest.fixture(scope="session")
def bert_twin(tmp_path_factory):
    return build_twin(tmp_path_factory.mktemp("bert") / "twin", text="bert")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "dog", 5)


@pytest.fixture(scope="session")
def class_pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("class pictures") / "dogs", 4)


@pytest.fixture
def flags(twin, pictures, tmp_path):
    """The command line of a short run on the twin, as a function of what is to be different."""
    return lambda **changes: command_line(twin, pictures, tmp_path / "out", **changes)


@pytest.fixture(scope="session")
def unidiffuser_twin(tmp_path_factory):
    return build_unidiffuser(tmp_path_factory.mktemp("unidiffuser") / "twin")


@pytest.fixture(scope="session")
def xl_twin(tmp_path_factory):
    return build_xl(tmp_path_factory.mktemp("xl") / "twin")


@pytest.fixture(scope="session")
def sd3_twin(tmp_path_factory):
    return build_sd3(tmp_path_factory.mktemp("sd3") / "twin")


@pytest.fixture(scope="session")
def inpainting_twin(tmp_path_factory):
    return build_inpainting(tmp_path_factory.mktemp("inpainting") / "twin")


@pytest.fixture(scope="session")
def upscaler_twin(tmp_path_factory):
    return build_upscaler(tmp_path_factory.mktemp("upscaler") / "twin")


@pytest.fixture(scope="session")
def pixels_twin(tmp_path_factory):
    return build_pixels(tmp_path_factory.mktemp("pixels") / "twin")


@pytest.fixture(scope="session")
def pixels_upscaler_twin(tmp_path_factory):
    return build_pixels_upscaler(tmp_path_factory.mktemp("second stage") / "twin")


@pytest.fixture
def small_disk(tmp_path):
    """An empty disk of 16 MB."""
    yield from mounted(tmp_path / "disk", megabytes=16)


@pytest.fixture(scope="session")
def torch_twin(twin, tmp_path_factory):
    """A repository of Hugging Face, with files that are not needed."""
    folder = tmp_path_factory.mktemp("hub") / "twin"
    saving.save(load_pipeline(twin), folder, "diffusers")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(b"not needed")
    (folder / "v1.ckpt").write_bytes(b"not needed")
    return folder


@pytest.fixture
def serve(tmp_path):
    """A function that starts a hub on this machine; its result is the server, and the environment of who asks it."""
    with serving(tmp_path) as start:
        yield start
