"""The kernels of a card's attention: which of them a network gets, and which keep the scores of all pairs of tokens.

PPDiffusers 0.29.0 (patches/paddle_patch.py) asks for Paddle's flash attention in half precision, where a first try of
it works, and for the memory-efficient one elsewhere. Two variables of the environment send it to plain products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.models import hub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dreambooth.run.memory.sizes import Sizes

FLASH, EFFICIENT, QUADRATIC = "flash", "memory-efficient", "quadratic"
_PLAIN = ("FLAGS_cudnn_deterministic", "FLAGS_sdpa_select_math")
_LIBRARY_S_OWN = "USE_PPXFORMERS"
_CAPABILITY = (8, 0)  # of flash attention
_LIMIT = 256  # features of a head up to which Paddle's _select_sdp_cuda takes it, 2.6.2 and 3.3.1


def kernel(features: int, is_half: bool, capability: tuple[int, int]) -> str:
    """Return the kernel for a head of so many features."""
    if not hub.is_set(_LIBRARY_S_OWN, "yes"):
        return QUADRATIC
    is_plain = any(map(hub.is_set, _PLAIN))
    if not is_half or capability < _CAPABILITY:
        return QUADRATIC if is_plain else EFFICIENT
    if features <= _LIMIT:
        return FLASH
    return QUADRATIC if is_plain else EFFICIENT


def kernels(heads: Iterable[int], is_half: bool, capability: tuple[int, int]) -> dict[int, str]:
    """Return {features of a head: kernel}."""
    return {each: kernel(each, is_half, capability) for each in sorted(set(heads))}


def in_words(found: dict[int, str]) -> str:
    """Return the result of kernels() as a text, with the remedy where one is quadratic."""
    by_kernel = {each: [features for features in found if found[features] == each] for each in found.values()}
    text = ", ".join(f"{each} (heads of {', '.join(map(str, features))})" for each, features in by_kernel.items())
    causes = [name for name in _PLAIN if hub.is_set(name)] + [_LIBRARY_S_OWN] * (not hub.is_set(_LIBRARY_S_OWN, "yes"))
    return f"{text}, by {causes[0]}" if QUADRATIC in by_kernel and causes else text


def head_sizes(sizes: Sizes) -> list[int]:
    """List the features of the denoiser's heads."""
    settings = sizes.settings[sizes.facts.denoiser]
    if "block_out_channels" not in settings:
        return [settings["attention_head_dim"]]
    channels = settings["block_out_channels"]
    # a setting of the library that names the number of heads, whatever it is called
    heads = settings.get("num_attention_heads") or settings["attention_head_dim"]
    each = heads if isinstance(heads, (list, tuple)) else [heads] * len(channels)
    with_attention = [kind.startswith("CrossAttn") for kind in settings["down_block_types"]]
    with_attention[-1] = True  # in the middle
    return [width // count for width, count, has in zip(channels, each, with_attention) if has]
