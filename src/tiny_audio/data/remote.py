"""Shards over HTTP: a file that can seek, and that survives a server which refuses, stalls or cuts.

A lost connection is taken up again at the byte where it broke, after a wait that doubles each time.
What does not come back is a ShardError, whose reason is what the loss is counted under.
"""

from __future__ import annotations

import http.client
import io
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event
from typing import IO, Any

from tiny_audio.errors import DataError

LOSSES = UNREACHABLE, CORRUPT = "shard_unreachable", "shard_corrupt"

_LONGEST_WAIT = 60.0  # seconds between two attempts
_LEAST_RATE = 1024  # bytes a second: what is slower has stalled
_PROGRESS = 1 << 15  # bytes after which earlier failures are forgotten
_SKIP = 1 << 18  # bytes that are read over rather than asked for anew
_BUFFER = 1 << 20
_PERMANENT = (401, 403, 404, 410)  # answers that another attempt will not change


class ShardError(Exception):
    """One shard cannot be read, or not to its end.

    Args:
        reason: ``shard_unreachable`` or ``shard_corrupt``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Patience:
    """How long a shard is waited for; the options of a source that is read in shards.

    Args:
        on_failure: ``skip`` a shard that cannot be read, counting it, or ``stop`` the run.
        retries: further attempts without any progress before a shard is given up.
        backoff: seconds before the first of them; each later wait is twice as long.
        timeout: seconds without data after which a connection counts as lost.
    """

    on_failure: str = "skip"
    retries: int = 5
    backoff: float = 1.0
    timeout: float = 30.0

    @classmethod
    def from_options(cls, options: Mapping[str, Any], key: str) -> Patience:
        """Of a source's options, each of them optional; raises DataError for an impossible one."""
        chosen = {name: options[name] for name in PATIENCE if name in options}
        where = f"{key}.options"
        if chosen.get("on_failure", "skip") not in ("skip", "stop"):
            raise DataError(f"{where}.on_failure={chosen['on_failure']}: use skip or stop.")
        for name, least in (("retries", 0), ("backoff", 0), ("timeout", 0.001)):
            value = chosen.get(name, least)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or value < least or (name == "retries" and value != int(value)):
                raise DataError(f"{where}.{name}={value}: use a number from {least} on.")
        return cls(**chosen)

    def wait(self, failures: int, stopped: Event) -> None:
        """Sleep after so many failures in a row; a set event ends the sleep.

        The waits vary by a quarter, so that the processes of a run do not all come back at once.
        """
        seconds = min(self.backoff * 2 ** (failures - 1), _LONGEST_WAIT)
        stopped.wait(seconds * random.Random().uniform(0.75, 1.25))


PATIENCE = ("on_failure", "retries", "backoff", "timeout")  # the names of these options


def plain_url(url: str) -> str:
    """The address without its query, which may hold a signature, and without a password."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_url(url: str, patience: Patience, stopped: Event) -> io.BufferedReader:
    """The address as a file that can seek. Nothing is asked of the server yet.

    Reading raises ShardError when the server stays away; a set `stopped` ends waits early.
    """
    return io.BufferedReader(_HttpFile(url, patience, stopped), _BUFFER)


class _HttpFile(io.RawIOBase):
    """Reads from one open response as long as it can, else asks for the rest by a range."""

    def __init__(self, url: str, patience: Patience, stopped: Event) -> None:
        self._url, self._patience, self._stopped = url, patience, stopped
        self._place = 0  # where the reader is
        self._size: int | None = None
        self._response: IO[bytes] | None = None
        self._response_place = 0
        self._bytes, self._seconds = 0, 0.0  # of the response lately, to tell a trickle
        self._failures, self._since = 0, 0  # in a row, and bytes that came since the last one

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            if self._size is None:
                self._persist(0)
            if self._size is None:
                raise ShardError("the server does not tell the length", UNREACHABLE)
            base = self._size
        else:
            base = self._place if whence == io.SEEK_CUR else 0
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._persist(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _persist(self, count: int) -> bytes:
        """Up to `count` bytes from the reader's place on; none only at the end of the file."""
        while True:
            try:
                data = self._read(count)
                self._since += len(data)
                if self._since >= _PROGRESS:
                    self._failures = 0
                return data
            except urllib.error.HTTPError as error:
                what = f"the server answers {error.code} {error.reason}"
                permanent = error.code in _PERMANENT
            except (OSError, ValueError, http.client.HTTPException) as error:
                what = str(getattr(error, "reason", error)) or type(error).__name__
                permanent = isinstance(error, ValueError)  # no address at all
            self._hang_up()
            self._failures, self._since = self._failures + 1, 0
            if permanent or self._failures > self._patience.retries or self._stopped.is_set():
                raise ShardError(f"{what} (tried {self._failures} times)", UNREACHABLE)
            self._patience.wait(self._failures, self._stopped)

    def _read(self, count: int) -> bytes:
        if self._size is not None and self._place >= self._size:
            return b""
        gap = self._place - self._response_place
        if self._response is None or not 0 <= gap <= _SKIP:
            self._hang_up()
            self._ask()
        if not count:
            return b""
        data = b"more"
        while data and self._response_place < self._place:
            data = self._receive(min(self._place - self._response_place, _BUFFER))
        data = data and self._receive(count)
        if not data:
            self._size = self._response_place  # of a server that does not say how long the file is
        return data

    def _ask(self) -> None:
        """Open a response at the reader's place, or at 0 where the server knows no ranges."""
        headers = {"User-Agent": "tiny-audio", "Accept-Encoding": "identity"}
        headers["Range"] = f"bytes={self._place}-"
        request = urllib.request.Request(self._url, headers=headers)
        try:
            response = urllib.request.urlopen(request, timeout=self._patience.timeout)
        except urllib.error.HTTPError as error:
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if error.code == 416 and total.isdigit() and int(total) <= self._place:
                self._size = int(total)  # asked for what is past the end
                self._response, self._response_place = io.BytesIO(), self._place
                return
            raise
        partial = response.status == 206
        length = response.headers.get("Content-Length", "")
        total = response.headers.get("Content-Range", "").rpartition("/")[2] if partial else length
        if total.isdigit():
            if self._size is not None and int(total) != self._size:
                response.close()
                raise ShardError("the file changed while it was read", CORRUPT)
            self._size = int(total)
        self._response, self._response_place = response, self._place if partial else 0
        self._bytes, self._seconds = 0, 0.0

    def _receive(self, count: int) -> bytes:
        """What has arrived of the next `count` bytes; raises OSError for a cut or a trickle."""
        assert self._response is not None
        began = time.monotonic()
        data: bytes = self._response.read1(count)  # type: ignore[attr-defined]
        self._seconds += time.monotonic() - began
        self._bytes += len(data)
        self._response_place += len(data)
        if not data and self._size is not None and self._response_place < self._size:
            raise ConnectionError(f"cut after {self._response_place} of {self._size} bytes")
        if self._seconds > self._patience.timeout:
            if self._bytes < _LEAST_RATE * self._seconds:
                raise TimeoutError(f"{self._bytes} bytes in {self._seconds:.0f} s")
            self._bytes, self._seconds = 0, 0.0
        return data

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
