"""The next batches, made while the device still computes on the present ones.

The loop asks for them once the work of a step has been handed to the device and before it waits for
the result. Nothing runs beside the loop, so the order of data and random numbers is as without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from tiny_audio.data.loader import TrainingStream
from tiny_audio.data.mixture import Usage
from tiny_audio.data.rejects import RejectCounts
from tiny_audio.model.batch import Batch


class Prefetcher:
    """A stream whose next batches can be fetched before they are taken.

    Its position (``state_dict``, ``epoch``, ``usage``) is after the last batch that was taken.

    Args:
        stream: training batches of this process.
        pin: put what is fetched into page-locked memory, which CUDA copies without waiting.
    """

    def __init__(self, stream: TrainingStream, *, pin: bool = False) -> None:
        self._stream, self._pin = stream, pin
        self._source: Iterator[Batch] = iter(())
        self._ready: deque[tuple[Batch, dict[str, Any], float]] = deque()  # batch, state, epoch
        self._failure: Exception | None = None
        self._taken: tuple[dict[str, Any], float] | None = None  # state and epoch

    @property
    def epoch(self) -> float:
        """Passes through the data."""
        return self._stream.epoch if self._taken is None else self._taken[1]

    @property
    def rejects(self) -> RejectCounts:
        """What was left out of all that was read."""
        return self._stream.rejects

    @property
    def usage(self) -> Usage:
        """What was learned from of each source."""
        return Usage.from_dict(self.state_dict()["usage"])

    def state_dict(self) -> dict[str, Any]:
        """The state of the stream after the last batch that was taken."""
        return self._stream.state_dict() if self._taken is None else self._taken[0]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore another stream's position; before the first batch is asked for."""
        self._stream.load_state_dict(state)

    def __iter__(self) -> Iterator[Batch]:
        self._source = iter(self._stream)
        while True:
            self.fetch(1)
            if self._failure is not None and not self._ready:
                raise self._failure
            if not self._ready:
                return
            batch, state, epoch = self._ready.popleft()
            self._taken = (state, epoch)
            yield batch

    def fetch(self, count: int) -> None:
        """Have so many batches ready, or all that are left.

        An error is kept until the batch that it stands for is taken: the present step ends first.
        """
        while len(self._ready) < count and self._failure is None:
            try:
                batch = next(self._source, None)
            except Exception as error:
                self._failure = error
                return
            if batch is None:
                return
            state, epoch = self._stream.state_dict(), self._stream.epoch
            self._ready.append((batch.pin_memory() if self._pin else batch, state, epoch))
