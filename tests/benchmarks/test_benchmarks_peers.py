"""benchmarks.peers: two tools in turn; a stand-in takes the other one's place."""

import sys

import pytest

from benchmarks import peers, subjects
from dreambooth.system.errors import BadInput

STAND_IN = """#!{python}
import json, sys, time
folder, part, cores, latents, batch = *sys.argv[3:5], *map(int, sys.argv[5:8])
import os
assert os.path.isfile(folder + "/unet/diffusion_pytorch_model.safetensors") and cores > 0 and part == "unet"
print(json.dumps({{"torch": "0.1"}}), flush=True)
for line in sys.stdin:
    name, *arguments = json.loads(line)
    if name == "draw":
        assert arguments[0] == 32 and arguments[1] in (2, 25) and latents == 16 and batch == 2
        {fault}
    print(json.dumps(0.5), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path):
    def write(fault="pass"):
        path = tmp_path / "python"
        path.write_text(STAND_IN.format(python=sys.executable, fault=fault))
        path.chmod(0o755)
        return str(path)

    return write


def command(twin, python, *more):
    return ["--model", str(twin), "--resolution", "32", "--batch", "2", "--torch_python", python, *more]


@pytest.mark.slow
def test_both_are_timed_in_turn(twin, stand_in, capsys, monkeypatch):
    monkeypatch.setitem(subjects.__dict__, "_FOLDER_DEFAULTS", (512, 4, 2))
    peers.main(command(twin, stand_in(), "--steps", "2", "--drawings", "1"))
    head, _, step, picture, *_ = capsys.readouterr().out.splitlines()
    assert "torch 0.1, s" in head and "32 x 32, batch 2" in step and "32 x 32, 25 steps" in picture
    for row, pictures in ((step, 1), (picture, 4)):
        ours, theirs, ratio = (float(cell.split()[0]) for cell in row.split("|")[2:5])
        assert theirs == 0.5 / pictures and ours > 0 and ratio == pytest.approx(ours / theirs, abs=0.02)


def test_without_the_other_python_it_says_how_to_get_one():
    with pytest.raises(BadInput, match="pip install torch diffusers transformers"):
        peers.main([])


@pytest.mark.slow
def test_what_the_other_python_can_not_do_is_told_in_its_words(twin, stand_in, monkeypatch):
    monkeypatch.setitem(subjects.__dict__, "_FOLDER_DEFAULTS", (512, 4, 2))
    with pytest.raises(BadInput, match="--torch_python /nowhere: it can't be run"):
        peers.main(command(twin, "/nowhere"))
    with pytest.raises(BadInput, match="--torch_python, .*: ZeroDivisionError: division by zero"):
        peers.main(command(twin, stand_in("1 / 0"), "--steps", "2", "--drawings", "1"))
