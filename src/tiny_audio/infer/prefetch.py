"""Reading ahead: the next recordings are decoded while the model works on these."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
PATIENCE = 1.0  # seconds that the end waits for a recording which is being read


def prefetch(items: Iterable[T], cost: Callable[[T], float], budget: float) -> Iterator[T]:
    """The same items in the same order, made on a background thread.

    The thread rests while the items that wait cost `budget` or more together, so that no more
    than the budget and one item lie in memory. What `items` raises is raised here, after the
    items before it. Closing the iterator ends the thread; one that hangs in a read (a terminal, a
    dead network) is left behind after a moment, so that Ctrl-C is never kept waiting for it.
    """
    ahead = _Ahead(cost, budget)
    worker = threading.Thread(target=ahead.fill, args=(items,), name="prefetch", daemon=True)
    worker.start()
    try:
        yield from ahead.drain()
    finally:
        ahead.stop()
        worker.join(timeout=PATIENCE)


class _Ahead(Generic[T]):
    """What the two threads share; every field is touched under `_changed` only."""

    def __init__(self, cost: Callable[[T], float], budget: float) -> None:
        self._cost, self._budget = cost, budget
        self._changed = threading.Condition()
        self._waiting: deque[tuple[T, float]] = deque()
        self._held = 0.0  # cost of what waits
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def fill(self, items: Iterable[T]) -> None:
        """The background thread's work."""
        try:
            for item in items:
                price = self._cost(item)
                with self._changed:
                    self._waiting.append((item, price))
                    self._held += price
                    self._changed.notify_all()
                    del item  # or the thread would keep one more alive while it rests
                    self._changed.wait_for(self._has_room)
                    if self._stopped:
                        return
        except BaseException as error:  # handed over, raised by drain
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._stopped or not self._waiting or self._held < self._budget

    def drain(self) -> Iterator[T]:
        """The caller's side."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or bool(self._waiting))
                if not self._waiting:
                    break
                item, price = self._waiting.popleft()
                self._held -= price
                self._changed.notify_all()
            yield item
            del item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Tell the background thread to end after the item that it is making."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
