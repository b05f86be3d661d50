"""Single operations of a network, forward and backward: whether a device computes them right."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dreambooth.run.trials import findings
from dreambooth.run.trials.findings import Finding
from dreambooth.system.devices import cards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dreambooth.system.types import Array, Network

HALF = {"float16": "fp16", "bfloat16": "bf16"}  # as --mixed_precision names them
# The difference is the norm of the error over the norm of the result. In float32 the order of the sums makes up to 5e-7
# of it, and a card's fast convolution (Winograd) some 1e-5; TF32 in their place would make 4e-4. In half precision the
# operands are rounded: with that done on a CPU, the difference was up to 1.7 unit roundoffs, which are 2^-11 and 2^-8.
# A wrong kernel is wrong by a tenth or more.
BOUNDS = {"float32": 5e-5, "float16": 8 * 2**-11, "bfloat16": 8 * 2**-8}


class Operation(NamedTuple):
    """A layer, and the shape of its input."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Network]


def operations() -> tuple[Operation, ...]:
    """List a convolution, a matrix product, and an attention as the networks have it."""
    from paddle import nn
    from ppdiffusers.models.attention_processor import Attention

    return (
        Operation("convolution", (2, 32, 16, 16), lambda: nn.Conv2D(32, 64, 3, padding=1)),
        Operation("matrix product", (512, 128), lambda: nn.Linear(128, 64)),
        Operation("attention", (2, 256, 64), lambda: Attention(64, heads=2, dim_head=40)),
    )


def compute(operation: Operation, device: str, precision: str) -> dict[str, list[Array]]:
    """Compute an operation of fixed numbers: its result, and the gradients of its input and its weights."""
    import paddle
    from ppdiffusers.models.attention_processor import Attention, AttnProcessor

    before, kind = paddle.device.get_device(), "float64" if precision == "float64" else "float32"
    paddle.device.set_device(device)
    try:
        numbers = np.random.default_rng(0)

        def draw(shape: Sequence[int], spread: float = 1.0) -> Array:
            return (numbers.standard_normal(shape, np.float32) * np.float32(spread)).astype(kind)

        layer = operation.make()
        layer.eval()
        if device == "cpu" and isinstance(layer, Attention):
            layer.set_processor(AttnProcessor())  # a build for cards chooses one without code for the CPU
        layer.to(dtype=kind)
        for parameter in layer.parameters():
            parameter.set_value(draw(parameter.shape, parameter.size**-0.25))
        x = paddle.to_tensor(draw(operation.shape), stop_gradient=False)
        is_half = precision in HALF
        with paddle.amp.auto_cast(enable=is_half, dtype=precision if is_half else "float16"):
            y = layer(x)
        y = y.astype(kind)
        (y * paddle.to_tensor(draw(y.shape))).sum().backward()
        gradients = [each.grad.astype(kind).numpy() for each in (x, *layer.parameters())]
        return {"forward": [y.numpy()], "backward": gradients}
    finally:
        paddle.device.set_device(before)


def difference(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """Return the largest norm of an error over the norm of what was expected; infinite for what is not finite."""
    parts = [np.linalg.norm(one - other) / np.linalg.norm(other) for one, other in zip(found, expected)]
    return float(max(parts)) if np.isfinite(parts).all() else np.inf


def check_cpu() -> Iterator[Finding]:
    """Check float32 on the CPU, with this project's changes to its layers, against float64."""
    for operation in operations():
        yield from _compare(operation, "cpu", "float32", compute(operation, "cpu", "float64"))


def check_cards() -> Iterator[Finding]:
    """Check each precision on each kind of card that Paddle sees, against float32 on the CPU."""
    import paddle

    expected = {operation.name: compute(operation, "cpu", "float32") for operation in operations()}
    seen, before = set(), paddle.device.get_device()
    for number in range(paddle.device.cuda.device_count()):
        paddle.device.set_device(f"gpu:{number}")
        kind = tuple(cards.describe().values())
        lacking = {precision: cards.reason_against(flag) for precision, flag in HALF.items()}
        paddle.device.set_device(before)
        if kind in seen:
            continue
        seen.add(kind)
        for precision in BOUNDS:
            if reason := lacking.get(precision):
                yield Finding("half precision", f"gpu:{number}", precision, note=reason, is_lacking=True)
                continue
            for operation in operations():
                yield from _compare(operation, f"gpu:{number}", precision, expected[operation.name])


def _compare(
    operation: Operation, device: str, precision: str, expected: Mapping[str, Sequence[Array]]
) -> Iterator[Finding]:
    try:
        found = compute(operation, device, precision)
    except Exception as error:  # of any kind: what a card lacks shows itself in many ways
        yield findings.failed(operation.name, device, precision, f"{type(error).__name__}: {error}")
        return
    for way, arrays in found.items():
        name = f"{operation.name}, {way}"
        yield Finding(name, device, precision, difference(arrays, expected[way]), BOUNDS[precision])
