"""Single operations: a right one passes, a wrong one fails, and each card gets the precisions that it has."""

import paddle
import pytest
import test_gpu
from paddle.nn import functional
from support.cards import pretend

from dreambooth.run.trials import operations

NAMES = test_gpu.OPERATIONS


def test_float32_on_the_cpu_is_right():
    found = list(operations.check_cpu())
    assert [each.check for each in found] == NAMES
    assert {each.result for each in found} == {"pass"} and max(each.difference for each in found) > 0


def test_a_kernel_that_is_a_little_wrong_fails(monkeypatch):
    right = functional.conv._conv_nd

    def wrong(x, *more, **named):
        return right(x, *more, **named) * (1.001 if x.dtype == paddle.float32 else 1.0)

    monkeypatch.setattr(functional.conv, "_conv_nd", wrong)
    assert {each.check for each in operations.check_cpu() if each.result == "fail"} == set(NAMES[:2])


def test_a_number_that_is_not_finite_fails():
    one = [paddle.ones([2]).numpy()]
    for wrong in (float("nan"), float("inf")):
        assert operations.difference([one[0] * wrong], one) == float("inf")
    assert operations.difference(one, one) == 0.0


class Rounded(paddle.autograd.PyLayer):
    """Rounds numbers, and their gradients, to so many bits after the first (Veltkamp's way)."""

    @staticmethod
    def forward(context, x, bits):
        context.bits = bits
        scaled = x * float(2 ** (23 - bits) + 1)
        return scaled - (scaled - x)

    @staticmethod
    def backward(context, gradient):
        return Rounded.forward(context, gradient, context.bits)


@pytest.mark.parametrize("precision, bits", [("float16", 10), ("bfloat16", 7)])
def test_operands_in_half_precision_are_within_its_bound_and_beyond_that_of_float32(monkeypatch, precision, bits):
    product = operations.operations()[1]
    expected = operations.compute(product, "cpu", "float32")
    linear = functional.linear

    def rounded(x, weight, bias, name=None):
        return linear(*(Rounded.apply(each * 1.0, bits) for each in (x, weight, bias)))

    monkeypatch.setattr(functional, "linear", rounded)
    found = operations.compute(product, "cpu", "float32")
    for way, arrays in found.items():
        difference = operations.difference(arrays, expected[way])
        assert operations.BOUNDS[precision] / 16 < difference < operations.BOUNDS[precision] / 4
        assert difference > 4 * operations.BOUNDS["float32"]


@pytest.fixture
def found_on(monkeypatch):
    """What is found on cards of some capabilities, where the CPU computes for them."""

    def find(*capabilities, broken=()):
        compute, current = operations.compute, []

        def choose(device):
            current[:] = [device]
            if device.startswith("gpu"):
                capability = capabilities[int(device.removeprefix("gpu:"))]
                pretend(monkeypatch, f"card of {capability}", capability)
            monkeypatch.setattr(paddle.device, "get_device", lambda: current[0])

        def compute_instead(operation, device, precision):
            if device != "cpu" and (operation.name, precision) in broken:
                raise RuntimeError(f"no kernel for {precision} in /home/someone/paddle")
            return compute(operation, "cpu", "float32")

        monkeypatch.setattr(paddle.device, "set_device", choose)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(operations, "compute", compute_instead)
        choose("gpu:0")
        return list(operations.check_cards())

    return find


@pytest.mark.parametrize(
    "capability, lacking",
    [("6.1", {"float16", "bfloat16"}), ("7.5", {"bfloat16"}), ("8.0", set()), ("12.0", set())],
)
def test_each_precision_that_a_card_has_is_checked(found_on, capability, lacking):
    found = found_on(capability)
    assert {each.precision for each in found if each.result == "none"} == lacking
    assert all("compute capability" in each.note for each in found if each.result == "none")
    for precision in {"float32", "float16", "bfloat16"} - lacking:
        rows = [each for each in found if each.precision == precision]
        assert [each.check for each in rows] == NAMES and {each.result for each in rows} == {"pass"}
        assert {each.device for each in rows} == {"gpu:0"}


def test_each_kind_of_card_is_checked_once(found_on):
    found = found_on("8.6", "8.6", "6.1")
    assert {each.device for each in found} == {"gpu:0", "gpu:2"}


def test_an_operation_that_a_card_lacks_fails_and_the_others_go_on(found_on):
    found = found_on("8.0", broken=[("attention", "float16")])
    [failure] = [each for each in found if each.result == "fail"]
    assert (failure.check, failure.precision) == ("attention", "float16")
    assert failure.note == "RuntimeError: no kernel for float16 in <path>"
    assert len(found) == 3 * len(NAMES) - 1
