"""Work side by side: each item once, in order, on its share of the threads."""

import threading
import time

import pytest

from dreambooth.system import threads


@pytest.fixture
def chosen(monkeypatch):
    """Four threads of Paddle's; the numbers that are set after that."""
    numbers, use = [], threads.use

    def note(count):
        numbers.append(count)
        use(count)

    before = threads._count
    use(4)
    monkeypatch.setattr(threads, "use", note)
    yield numbers
    use(before)


@pytest.mark.parametrize("items, of_each", [(2, 2), (3, 1), (4, 1), (9, 1)])
def test_items_divide_the_threads(items, of_each, chosen):
    used = set()

    def work(item):
        used.add(threading.get_ident())
        time.sleep(0.01 * (items - item))  # the last item is done first
        return -item

    assert threads.side_by_side(work, range(items)) == [-item for item in range(items)]
    assert 1 < len(used) <= 4 and threading.get_ident() not in used
    assert chosen == [of_each, 4]


def test_one_item_and_none_are_done_as_they_are(chosen):
    assert threads.side_by_side(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]
    assert threads.side_by_side(str, []) == [] and chosen == []


def test_inside_of_an_item_nothing_is_divided_again(chosen):
    def work(_):
        return {threading.get_ident()} == set(threads.side_by_side(lambda _: threading.get_ident(), range(3)))

    assert threads.side_by_side(work, range(2)) == [True] * 2 and chosen == [2, 4]
    assert len(set(threads.side_by_side(lambda _: threading.get_ident(), range(3)))) > 0 and chosen == [2, 4, 1, 4]


def test_an_error_is_raised_and_the_threads_are_as_before(chosen):
    with pytest.raises(ZeroDivisionError):
        threads.side_by_side(lambda item: 1 / item, [1, 0])
    assert chosen == [2, 4]
