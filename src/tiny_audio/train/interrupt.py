"""Ctrl-C and SIGTERM: asked to stop, the loop finishes its step and saves."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Protocol

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAIT = b"\nFinishing this step and saving; once more stops at once.\n"


class Asked(Protocol):
    """Whatever tells that a run should stop."""

    received: int | None  # number of the signal


class StopSignal:
    """Context in which the first Ctrl-C or SIGTERM only sets ``received``.

    A second one does what it always did: whoever presses Ctrl-C twice does not want to wait.
    Outside the main thread, where Python allows no handlers, signals keep their usual effect.

    Args:
        patient: hold back every further signal as well. A launcher of several processes passes a
            Ctrl-C on to processes that the terminal has already told.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.received: int | None = None  # number of the signal
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that was forked off dies as it would have
            self._restore()
            os.kill(os.getpid(), number)
        if not self.patient:
            self._restore()
            os.write(2, _WAIT)
        self.received = number

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
