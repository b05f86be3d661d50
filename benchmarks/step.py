"""The time of a training step over its floor: the same network's forward and backward on the same tensors, and AdamW.

    python -m benchmarks.step                   # the embedded model, batch 4
    python -m benchmarks.step --model full      # Stable Diffusion 1's shape, 256 x 256, batch 1: 24 GB, some minutes

A whole run is made, as train_dreambooth.py makes it. Before each of its steps stands one of the bare loop, in the same
process, on the same network and with the same optimizer: what disturbs the machine disturbs both. With --lora_rank, the
bare loop beside it is that of the whole network, with an AdamW of its own.
"""

import contextlib
import io
import tempfile
import time

from benchmarks import subjects
from dreambooth.data.batches import Batches
from dreambooth.models import loading
from dreambooth.system import console, libraries

WARM_UP = 2


class Enough(Exception):
    """All steps have been timed."""


class Stopwatch:
    """Times a run's steps, and a step of the bare loop before each."""

    def __init__(self, steps):
        self.wanted = steps + WARM_UP
        self.steps, self.floors = [], []
        self.begun = self.family = self.updates = self.seen = self.adamw = None

    def step_begins(self):
        now = time.perf_counter()
        if self.begun is not None:
            self.steps.append(now - self.begun)
        if len(self.steps) == self.wanted:
            raise Enough
        if self.seen is not None:
            begun = time.perf_counter()
            self.whole_step() if self.family.adapters else self.bare_step(self.updates.adamw)
            self.floors.append(time.perf_counter() - begun)
        self.begun = time.perf_counter()

    def bare_step(self, adamw):
        import paddle.nn.functional as F

        noisy, t, conditioning = self.seen
        F.mse_loss(self.family.unet(noisy, t, conditioning["hidden"]).sample, noisy).backward()
        adamw.step()
        adamw.clear_grad(set_to_zero=False)

    def whole_step(self):
        """A step of the bare loop on the whole network beside which a LoRA learns."""
        import paddle

        weights = self.family.unet.parameters()
        for adapters in self.family.adapters.values():
            adapters.take_off()
        for weight in weights:
            weight.stop_gradient = False
        self.adamw = self.adamw or paddle.optimizer.AdamW(1e-9, parameters=weights)
        self.bare_step(self.adamw)
        for weight in weights:
            weight.stop_gradient = True
        for adapters in self.family.adapters.values():
            adapters.put_on()

    def pairs(self):
        """(floor, step) of each step that had a floor before it, without the first ones."""
        return list(zip(self.floors[WARM_UP - 1 :], self.steps[WARM_UP:]))


@contextlib.contextmanager
def watching(watch):
    """Let a run of train_dreambooth.py tell when its steps begin, and what its networks are."""
    from dreambooth.training.updates import Updates

    load, micro_batch, begin = loading.load_model, Batches.micro_batch, Updates.__init__

    def load_model(*arguments, **options):
        watch.family = family = load(*arguments, **options)
        predict = family.predict

        def predict_and_keep(noisy, t, conditioning):
            watch.seen = noisy.detach(), t, {name: tensor.detach() for name, tensor in conditioning.items()}
            return predict(noisy, t, conditioning)

        family.predict = predict_and_keep
        return family

    def next_micro_batch(self, update, micro):
        if micro == 0:
            watch.step_begins()
        return micro_batch(self, update, micro)

    def updates(self, *arguments):
        watch.updates = self
        begin(self, *arguments)

    loading.load_model, Batches.micro_batch, Updates.__init__ = load_model, next_micro_batch, updates
    try:
        yield
    finally:
        loading.load_model, Batches.micro_batch, Updates.__init__ = load, micro_batch, begin


def measure(folder, size, batch, steps, *more):
    """[(floor, step)] in seconds."""
    import train_dreambooth

    libraries.load()
    watch = Stopwatch(steps)
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(io.StringIO()), watching(watch):
        flags = subjects.run_flags(folder, output, size, batch, steps + WARM_UP + 1, *more)
        with contextlib.suppress(Enough):
            train_dreambooth.main(flags)
    return watch.pairs()


def main(argv):
    parser = subjects.parser("step", __doc__)
    parser.add_argument("--steps", type=int, metavar="N", help="how many to time (default: 60; full 8)")
    subjects.add_run_flags(parser)
    parser.add_argument("--lora_rank", type=int, metavar="N", help="a run with a LoRA of this rank")
    arguments = parser.parse_args(argv)
    folder, size, batch = subjects.run_of(arguments)
    more = ("--lora_rank", str(arguments.lora_rank)) if arguments.lora_rank else ()
    pairs = measure(folder, size, batch, arguments.steps or (8 if arguments.model == "full" else 60), *more)
    floor, step = (subjects.median(times) for times in zip(*pairs))
    ratios = sorted(step / floor for floor, step in pairs)
    quarter = len(ratios) // 4
    print(subjects.table(
        ["model", "size", "batch", "floor, s", "step, s", "ratio (quartiles)", "steps"],
        [[
            " ".join([arguments.model, *more]), f"{size} x {size}", batch, f"{floor:.3f}", f"{step:.3f}",
            f"{subjects.median(ratios):.3f} ({ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})", len(pairs),
        ]],
    ))  # fmt: skip


if __name__ == "__main__":
    console.run_command(main)
