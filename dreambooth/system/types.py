"""The types that several rooms share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray
    from paddle import Tensor
    from typing_extensions import override as override
else:
    _Method = TypeVar("_Method")

    def override(method: _Method) -> _Method:
        """Mark a method that replaces one of a base class; typing has it from Python 3.12 on."""
        return method


Array: TypeAlias = "NDArray[Any]"
Arrays: TypeAlias = "Mapping[str, Array]"
Tensors: TypeAlias = "Mapping[str, Tensor]"  # all with the same number of rows
Size: TypeAlias = tuple[int, int]  # (height, width) in pixels, as tensors and the settings have it
Box: TypeAlias = tuple[float, float, float, float]  # (left, top, right, bottom) in pixels, as Pillow has it
Key: TypeAlias = tuple[int, ...]  # names the random numbers of one example: (update, slot, kind)
JSON: TypeAlias = "Any"  # whatever a JSON file holds
# the libraries' objects: Paddle has types since 3.x only, the others none
Pipeline: TypeAlias = "Any"
Network: TypeAlias = "Any"
Scheduler: TypeAlias = "Any"
Tokenizer: TypeAlias = "Any"
