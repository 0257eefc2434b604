"""What passes through the hub in a box: requests, what is to go wrong with them, and how fast."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Request:
    """A request that came in; `status` is 0 and `sent` grows while the answer is under way."""

    method: str
    path: str  # decoded, without the query
    query: str = ""
    range: str | None = None
    authorization: bool = False
    status: int = 0
    sent: int = 0  # bytes of the body
    at: float = field(default_factory=time.monotonic)


@dataclass
class Fault:
    """What is to go wrong with requests whose path matches."""

    pattern: re.Pattern[str]
    kind: str | int
    times: int | None
    after: int
    retry_after: float | None
    method: str | None
    content: bytes | None
    hits: int = 0


class Pace:
    """Bytes let through at a rate, over all who wait here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = 0.0

    def wait(self, count: int, rate: float | None) -> None:
        """Wait for `count` bytes' turn at `rate` bytes a second."""
        if rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now) + count / rate
            delay = self._free - now
        time.sleep(delay)
