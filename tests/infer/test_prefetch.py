"""Reading ahead changes neither items nor order, is bounded, and ends when the reader ends."""

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from tiny_audio.infer.prefetch import prefetch


def running() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("budget", [0.0, 1.0, 7.0, 1e9])
def test_same_items_same_order(budget: float) -> None:
    items = list(range(50))
    assert list(prefetch(items, cost=lambda item: item % 5, budget=budget)) == items
    assert running() == 0


def test_no_more_than_the_budget_and_one_item_wait() -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        for i in range(100):
            made += 1
            yield i

    for taken, _ in enumerate(prefetch(items(), cost=lambda _: 10.0, budget=30.0), 1):
        time.sleep(0.002)
        assert made <= taken + 3 + 1  # three wait for 30, one may be in the making


def test_what_the_items_raise_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="disk is gone"):
        seen.extend(prefetch(items(), cost=lambda _: 1.0, budget=100.0))
    assert seen == [1, 2]
    assert running() == 0


def test_a_reader_that_stops_early_ends_the_thread() -> None:
    reader = prefetch(count(1), cost=lambda _: 1.0, budget=3.0)
    assert [next(reader), next(reader)] == [1, 2]
    reader.close()
    assert running() == 0
