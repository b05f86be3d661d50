"""Numbers that are not finite: the step is named, and the last checkpoint that was sound stays."""

import re

import pytest
from support.commands import command_line, python
from support.faults import one_line
from support.weights import weights

from dreambooth.run import checkpoints

pytestmark = pytest.mark.slow

# a run whose loss or gradient is another number from one update on; the rest is the run's own
BROKEN = """
import sys
import train_dreambooth
from dreambooth.system import console
what, step = sys.argv[1], int(sys.argv[2])

def break_loss():
    from dreambooth.training.objective import loss
    right, count = loss.dreambooth_loss, iter(range(10**9))
    factor = {"nan": float("nan"), "inf": float("inf")}[what]
    def wrong(*arguments):
        parts = right(*arguments)
        if next(count) + 1 >= step:
            parts = {name: part * factor for name, part in parts.items()}
        return parts
    loss.dreambooth_loss = wrong

def overflow():
    import paddle
    from dreambooth.training import updates
    made, count = updates.Updates.__init__, iter(range(10**9))
    class Scaler:
        # what Paddle's does with fp16 on a card: gradients that overflow make no update
        def __init__(self, parameters): self.parameters = parameters
        def is_enable(self): return True
        def scale(self, loss): return loss * (float("inf") if next(count) + 1 >= step else 1.0)
        def unscale_(self, optimizer): pass
        def step(self, optimizer):
            if all(bool(paddle.isfinite(each.grad).all()) for each in self.parameters):
                optimizer.step()
        def update(self): pass
        def state_dict(self): return {}
    def make(self, *arguments):
        made(self, *arguments)
        self.scaler = Scaler(self.parameters)
    updates.Updates.__init__ = make

prepare = train_dreambooth.train
def train(*arguments):
    overflow() if what == "overflow" else break_loss()
    prepare(*arguments)
train_dreambooth.train = train
console.run_command(train_dreambooth.main, sys.argv[3:])
"""


def is_finite(folder):
    import numpy as np

    return all(np.isfinite(each).all() for each in weights(folder).values())


def last_is_sound(out, name):
    (folder, _), problems = checkpoints.find("latest", out)
    assert folder.name == name and not problems and is_finite(folder / "unet")
    assert not (out / "model_index.json").exists()


@pytest.mark.parametrize("what", ["nan", "inf"])
def test_a_loss_that_is_not_finite(twin, pictures, tmp_path, what):
    (tmp_path / "broken.py").write_text(BROKEN)
    out = tmp_path / "out"
    done = python(tmp_path / "broken.py", what, 4, *command_line(twin, pictures, out, max_train_steps=9, save_steps=2))
    assert done.returncode == 1
    kept = f"{out}/checkpoint-2 is the last checkpoint, though an earlier one may be sounder"
    remedy = f"give a lower --learning_rate; {kept}"
    assert one_line(done.stderr) == f"error: the loss is not finite at step 4, learning rate 0.001: {remedy}"
    last_is_sound(out, "checkpoint-2")


def test_thirty_overflows_in_a_row_with_fp16(twin, pictures, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    out = tmp_path / "out"
    line = command_line(twin, pictures, out, max_train_steps=9, save_steps=2)
    done = python(tmp_path / "broken.py", "overflow", 5, *line)
    assert done.returncode == 1, done.stderr
    assert "error: the gradient is not finite at step 5, " in one_line(done.stderr)
    last_is_sound(out, "checkpoint-4")


@pytest.mark.parametrize(
    "changes", [dict(learning_rate=1e30), dict(lora_rank=2, learning_rate=1e38)], ids=["all", "lora"]
)
def test_weights_that_a_learning_rate_drives_out_of_bounds(twin, pictures, tmp_path, changes):
    out = tmp_path / "out"
    done = python("train_dreambooth.py", *command_line(twin, pictures, out, max_train_steps=9, save_steps=1, **changes))
    assert done.returncode == 1, done.stderr
    found = re.search(
        r"the (loss|weights) (is|are) not finite at step (\d), learning rate 1e\+3\d: ", one_line(done.stderr)
    )
    assert found and int(found[3]) < 9
    for folder in out.glob("checkpoint-*"):
        assert is_finite(folder / "unet")
    assert not (out / "model_index.json").exists()


def test_a_checkpoint_with_numbers_that_are_not_finite_is_not_trained_on(twin, pictures, tmp_path):
    """As an earlier version may have written."""
    import numpy as np

    from dreambooth.files import atomic, records, safetensors

    out = tmp_path / "out"
    line = command_line(twin, pictures, out, max_train_steps=3, save_steps=1)
    assert python("train_dreambooth.py", *line).returncode == 0
    folder = out / "checkpoint-2"
    [path] = (folder / "unet").glob("*.safetensors")
    changed = dict(safetensors.Reader(path))
    changed["conv_in.weight"] = np.full_like(changed["conv_in.weight"], np.nan)
    safetensors.write(path, changed, {"format": "np"})
    state = records.read_state(folder)
    state["files"] = {name: (folder / name).stat().st_size for name in state["files"]}
    del state["checksums"]
    atomic.write_json(folder / "state.json", state)
    done = python("train_dreambooth.py", *line, "--resume_from_checkpoint", "checkpoint-2")
    assert done.returncode == 1 and "the loss is not finite at step 3, " in one_line(done.stderr)
