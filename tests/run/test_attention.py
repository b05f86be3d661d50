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
    "is_half, capability, version, expected",
    [
        (True, (8, 6), "3.3.1", {40: FLASH, 80: FLASH, 160: FLASH}),
        (True, (8, 6), "2.6.2", {40: FLASH, 80: FLASH, 160: EFFICIENT}),
        (True, (7, 5), "3.3.1", {40: EFFICIENT, 80: EFFICIENT, 160: EFFICIENT}),
        (False, (9, 0), "3.3.1", {40: EFFICIENT, 80: EFFICIENT, 160: EFFICIENT}),
    ],
)
def test_stable_diffusion_1_never_has_quadratic_attention_by_itself(is_half, capability, version, expected):
    heads = attention.head_sizes(STABLE_DIFFUSION_1)
    assert attention.kernels(heads, is_half, capability, version) == expected


def test_deterministic_kernels_are_quadratic_where_there_is_no_flash(monkeypatch):
    monkeypatch.setenv("FLAGS_cudnn_deterministic", "True")
    heads = attention.head_sizes(STABLE_DIFFUSION_1)
    assert set(attention.kernels(heads, False, (8, 6), "3.3.1").values()) == {QUADRATIC}
    assert set(attention.kernels(heads, True, (8, 6), "3.3.1").values()) == {FLASH}
    older = attention.kernels(heads, True, (8, 6), "2.6.2")
    assert older == {40: FLASH, 80: FLASH, 160: QUADRATIC}
    assert (
        attention.in_words(older) == "flash (heads of 40, 80), quadratic (heads of 160), by FLAGS_cudnn_deterministic"
    )


def test_the_library_can_be_told_to_use_no_kernel(monkeypatch):
    monkeypatch.setenv("USE_PPXFORMERS", "0")
    found = attention.kernels([64], True, (9, 0), "3.3.1")
    assert attention.in_words(found) == "quadratic (heads of 64), by USE_PPXFORMERS"


def test_the_rule_is_that_of_the_installed_paddle():
    """The limit that is copied here is the library's own."""
    import paddle
    from paddle.nn.functional import flash_attention

    limit = attention._LIMITS[int(paddle.__version__.split(".")[0])]
    assert flash_attention._select_sdp_cuda(limit) == "flash_attn"
    assert flash_attention._select_sdp_cuda(limit + 1) == "mem_efficient"
