"""The card that Paddle computes on: its name, its abilities, its driver, and the CUDA of this build."""

from __future__ import annotations

import functools
import subprocess
from typing import TYPE_CHECKING, Any

from dreambooth.system import processes
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

_SECONDS = 10  # that the driver gets to answer
# Paddle's auto_cast, 2.6.2 and 3.3.1: below these compute capabilities it only warns, and computes in float32
_LEAST = {"fp16": (7, 0), "bf16": (8, 0)}
_CUDA_OF_BF16 = 11
_HALF = {"fp16": "float16", "bf16": "bfloat16"}


def _properties() -> Any:  # noqa: ANN401  Paddle's own
    """Return the properties of the card that Paddle computes on, which need not be the first."""
    import paddle
    from paddle.device import cuda

    return cuda.get_device_properties(int(paddle.device.get_device().partition(":")[2] or 0))


def capability() -> tuple[int, int]:
    """Return the compute capability of the card."""
    properties = _properties()
    return int(properties.major), int(properties.minor)


def cuda_version() -> str:
    """Return the version of CUDA for which this Paddle was built."""
    import paddle

    return str(paddle.version.cuda())


def reason_against(precision: str) -> str | None:
    """Return why the card does not compute in a precision, one of --mixed_precision's; None where it does."""
    least, own = _LEAST.get(precision, (0, 0)), capability()
    if own < least:
        return f"this card has compute capability {own[0]}.{own[1]}, and {precision} needs {least[0]}.{least[1]}"
    if precision == "bf16" and int(cuda_version().split(".")[0]) < _CUDA_OF_BF16:
        return f"this Paddle was built for CUDA {cuda_version()}, and bf16 needs {_CUDA_OF_BF16}"
    return None


def check_precision(precision: str) -> None:
    """Refuse a value of --mixed_precision that the card lacks. The CPU has float32 alone, of which a run warns."""
    if not processes.is_on_gpu() or not (reason := reason_against(precision)):
        return
    can_fp16 = precision != "fp16" and not reason_against("fp16")
    remedy = "give --mixed_precision fp16, or leave the flag out" if can_fp16 else "leave the flag out"
    raise BadInput(f"--mixed_precision {precision}: {reason}; {remedy}")


def half(precision: str) -> str | None:
    """Return the kind of number of --mixed_precision where Paddle computes on a card; None for float32."""
    return _HALF.get(precision) if processes.is_on_gpu() else None


def computing_in(kind: str | None) -> contextlib.AbstractContextManager[None]:
    """Return the context of forward passes whose products are in half precision; `kind` is the result of half()."""
    import paddle

    context: contextlib.AbstractContextManager[None] = paddle.amp.auto_cast(
        enable=kind is not None, dtype=kind or "float16"
    )
    return context


@functools.cache
def driver() -> str:
    """Return the version of the driver; empty where that does not answer."""
    return next(iter(query("driver_version")), "")


def query(properties: str) -> list[str]:
    """List some properties of each card that the driver has, a text for each; none where it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={properties}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def describe() -> dict[str, Any]:
    """Return what a result on the card depends on, beside its settings."""
    return {
        "card": str(_properties().name),
        "capability": ".".join(map(str, capability())),
        "cuda": cuda_version(),
        "driver": driver(),
    }


def in_words(card: Mapping[str, Any]) -> str:
    """Return the result of describe() as a text."""
    return f"{card['card']}, compute capability {card['capability']}, CUDA {card['cuda']}, driver {card['driver']}"
