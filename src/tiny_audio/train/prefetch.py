"""The next batches, made while the device still computes on the present ones.

The loop asks for them once the work of a step has been handed to the device and before it waits for
the result. Nothing runs beside the loop, so the order of data and random numbers is as without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tiny_audio.data.loader import TrainingStream
from tiny_audio.model.batch import Batch


class Prefetcher:
    """Iterates over a stream whose next batches can be fetched before they are taken.

    Its ``state_dict`` is that after the last batch that was taken. Batches know their ``epoch``.

    Args:
        stream: training batches of this process.
        pin: put what is fetched into page-locked memory, which CUDA copies without waiting.
    """

    def __init__(self, stream: TrainingStream, *, pin: bool = False) -> None:
        self._stream, self._pin = stream, pin
        self._source: Iterator[Batch] = iter(())
        self._ready: deque[tuple[Batch, dict[str, Any]]] = deque()  # with the state after each
        self._failure: Exception | None = None
        self._state: dict[str, Any] | None = None

    @property
    def epoch(self) -> float:
        """Passes through the data."""
        return float(self.state_dict()["epoch"])

    def state_dict(self) -> dict[str, Any]:
        """The state of the stream after the last batch that was taken."""
        return self._stream.state_dict() if self._state is None else self._state

    def __iter__(self) -> Iterator[Batch]:
        self._source = iter(self._stream)
        while True:
            self.fetch(1)
            if not self._ready and self._failure is not None:
                raise self._failure
            if not self._ready:
                return
            batch, self._state = self._ready.popleft()
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
            batch = replace(batch, epoch=self._stream.epoch)
            batch = batch.pin_memory() if self._pin else batch
            self._ready.append((batch, self._stream.state_dict()))
