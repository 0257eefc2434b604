"""Reading ahead: the next recordings are decoded while the model works on these."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 1.0  # seconds that the end waits for a recording which is being read


def prefetch(items: Iterable[T], cost: Callable[[T], float], budget: float) -> Iterator[T]:
    """The same items in the same order, made on a background thread.

    The thread rests while the items that wait cost `budget` or more together. What `items` raises
    is raised here, after the items before it. Closing the iterator ends the thread; one that hangs
    in a read (a terminal, a dead network) is left behind after a moment, lest Ctrl-C wait for it.
    """
    changed = threading.Condition()  # guards all that follows
    waiting: deque[tuple[T, float]] = deque()
    ended = stopped = False
    error: BaseException | None = None

    def has_room() -> bool:
        return stopped or not waiting or sum(price for _, price in waiting) < budget

    def fill() -> None:
        nonlocal ended, error
        try:
            for item in items:
                price = cost(item)
                with changed:
                    waiting.append((item, price))
                    changed.notify_all()
                    del item  # or the thread would keep one more alive while it rests
                    changed.wait_for(has_room)
                    if stopped:
                        return
        except BaseException as raised:  # raised below, in the caller's thread
            error = raised
        finally:
            with changed:
                ended = True
                changed.notify_all()

    worker = threading.Thread(target=fill, name="prefetch", daemon=True)
    worker.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: ended or bool(waiting))
                if not waiting:
                    break
                item, _ = waiting.popleft()
                changed.notify_all()
            yield item
            del item
        if error is not None:
            raise error
    finally:
        with changed:
            stopped = True
            changed.notify_all()
        worker.join(timeout=PATIENCE)
