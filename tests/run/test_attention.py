"""Which kernels a card's attention gets, by precision, capability, head size, version and environment."""

import pytest
from support.known_sizes import STABLE_DIFFUSION_1

from dreambooth.run.memory import attention
from dreambooth.run.memory.attention import EFFICIENT, FLASH, QUADRATIC


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("FLAGS_cudnn_deterministic", "FLAGS_sdpa_select_math", "USE_PPXFORMERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "is_half, capability, expected",
    [
        (True, (8, 6), {40: FLASH, 80: FLASH, 160: FLASH}),
        (True, (7, 5), {40: EFFICIENT, 80: EFFICIENT, 160: EFFICIENT}),
        (False, (9, 0), {40: EFFICIENT, 80: EFFICIENT, 160: EFFICIENT}),
    ],
)
def test_stable_diffusion_1_never_has_quadratic_attention_by_itself(is_half, capability, expected):
    heads = attention.head_sizes(STABLE_DIFFUSION_1)
    assert attention.kernels(heads, is_half, capability) == expected


def test_deterministic_kernels_are_quadratic_where_there_is_no_flash(monkeypatch):
    monkeypatch.setenv("FLAGS_cudnn_deterministic", "True")
    heads = attention.head_sizes(STABLE_DIFFUSION_1)
    assert set(attention.kernels(heads, False, (8, 6)).values()) == {QUADRATIC}
    assert set(attention.kernels(heads, True, (8, 6)).values()) == {FLASH}
    wide = attention.kernels([64, 320], True, (8, 6))
    assert wide == {64: FLASH, 320: QUADRATIC}
    assert attention.in_words(wide) == "flash (heads of 64), quadratic (heads of 320), by FLAGS_cudnn_deterministic"


def test_the_library_can_be_told_to_use_no_kernel(monkeypatch):
    monkeypatch.setenv("USE_PPXFORMERS", "0")
    found = attention.kernels([64], True, (9, 0))
    assert attention.in_words(found) == "quadratic (heads of 64), by USE_PPXFORMERS"


def test_the_rule_is_that_of_the_installed_paddle():
    """The limit that is copied here is the library's own."""
    from paddle.nn.functional import flash_attention

    assert flash_attention._select_sdp_cuda(attention._LIMIT) == "flash_attn"
    assert flash_attention._select_sdp_cuda(attention._LIMIT + 1) == "mem_efficient"
