"""Remote files: seekable, and read to the end in spite of a failing server.

A lost connection is taken up again at the byte where it broke, after waits that double. http(s) is
urllib's; s3://, gs://, az://, hf:// and the like are fsspec's, and need its package for them
(s3fs, gcsfs, adlfs, huggingface_hub).
"""

from __future__ import annotations

import base64
import io
import random
import re
import string
import time
import urllib.parse
from dataclasses import dataclass
from threading import Event
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tiny_audio.errors import first_line

UNREACHABLE, CORRUPT = "unreachable", "corrupt"

_LONGEST_WAIT = 60.0  # seconds between two attempts
_LEAST_RATE = 1024  # bytes a second: what is slower has stalled
_PROGRESS = 1 << 15  # bytes after which earlier failures are forgotten
_SKIP = 1 << 18  # bytes that are read over rather than asked for anew
_BUFFER = 1 << 20
_BLOCK = 1 << 22  # of an object store, fetched at a time
_PERMANENT = (FileNotFoundError, PermissionError, ValueError, ImportError)  # retrying cannot help
_PERMANENT_STATUS = (401, 403, 404, 410)


class UnreadableError(Exception):
    """A file cannot be read, or not to its end; `reason` is ``unreachable`` or ``corrupt``."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server is waited for; times in seconds."""

    retries: int = 5  # further attempts without any progress before a file is given up
    backoff: float = 1.0  # before the first of them; each later wait is twice as long
    timeout: float = 30.0  # without data after which a connection counts as lost

    def wait(self, failures: int, stopped: Event) -> None:
        """Sleep after so many failures in a row, ± a quarter; a set event ends the sleep."""
        seconds = min(self.backoff * 2 ** (failures - 1), _LONGEST_WAIT)
        stopped.wait(seconds * random.Random().uniform(0.75, 1.25))


def is_remote(path: str) -> bool:
    """Whether a path is an address, such as https://… or s3://…."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path) is not None


def is_http(path: str) -> bool:
    """Whether a path is an http(s) address."""
    return path.lower().startswith(("http://", "https://"))


def plain_url(url: str) -> str:
    """The address without its query, which may hold a signature, and without a password."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises UnreadableError where a package for it is missing.
    """
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:  # not installed, no such protocol
        raise UnreadableError(str(error), UNREACHABLE) from error
    return fs, path


def open_remote(url: str, policy: RetryPolicy, stopped: Event | None = None) -> io.BufferedReader:
    """Open an address as a file that can seek. Nothing is asked of the server yet.

    Reading raises UnreadableError when the server stays away; a set `stopped` ends waits early.
    """
    return io.BufferedReader(RemoteFile(url, policy, stopped), _BUFFER)


class RemoteFile(io.RawIOBase):
    """Reads from one open response or file as long as it can, else opens it again at its place."""

    def __init__(self, url: str, policy: RetryPolicy, stopped: Event | None = None) -> None:
        self._url, self._policy, self._stopped = url, policy, stopped or Event()
        self.size: int | None = None
        self._position = 0  # of the reader
        self._file: Any = None
        self._file_position = 0
        self._bytes, self._seconds = 0, 0.0  # received lately, to tell a trickle
        self._failures, self._since = 0, 0  # in a row, and bytes received since the last one

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = self._position if whence == io.SEEK_CUR else 0
        if whence == io.SEEK_END:
            size = self.length()
            if size is None:
                raise UnreadableError("the server does not tell the length", UNREACHABLE)
            base = size
        self._position = max(0, base + offset)
        return self._position

    def length(self) -> int | None:
        """Bytes of the file, None where the server does not tell."""
        if self.size is None:
            self._retrying(0)
        return self.size

    def readinto(self, buffer: Any) -> int:
        data = self._retrying(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _retrying(self, count: int) -> bytes:
        """Up to `count` bytes from the reader's position on; none only at the end of the file."""
        while True:
            try:
                data = self._read(count)
            except UnreadableError:
                raise
            except Exception as error:  # the file systems' errors share no base class
                self._hang_up()
                self._failures, self._since = self._failures + 1, 0
                what, permanent = _describe(error)
                if permanent or self._failures > self._policy.retries or self._stopped.is_set():
                    message = f"{what} (tried {self._failures} times)"
                    raise UnreadableError(message, UNREACHABLE) from error
                self._policy.wait(self._failures, self._stopped)
                continue
            self._since += len(data)
            if self._since >= _PROGRESS:
                self._failures = 0
            return data

    def _read(self, count: int) -> bytes:
        if self.size is not None and self._position >= self.size:
            return b""
        if self._file is None or not 0 <= self._position - self._file_position <= _SKIP:
            self._hang_up()
            size = self._open()
            if None not in (size, self.size) and size != self.size:
                raise UnreadableError("the file changed while it was read", CORRUPT)
            self.size = self.size if size is None else size
        data = b"more"
        while data and self._file_position < self._position:
            data = self._receive(min(self._position - self._file_position, _BUFFER))
        return self._receive(count) if data and count else b""

    def _open(self) -> int | None:
        """Open it at the reader's position, or at 0 where the server knows no ranges: its size."""
        self._bytes, self._seconds = 0, 0.0
        self._file_position = self._position
        if not is_http(self._url):
            fs, path = file_system(self._url)
            self._file = fs.open(path, "rb", block_size=_BLOCK)
            self._file.seek(self._position)
            return getattr(self._file, "size", None)
        self._file = urlopen(_request(self._url, self._position), timeout=self._policy.timeout)
        total = self._file.headers.get("Content-Length", "")
        if self._file.status == 206:
            total = self._file.headers.get("Content-Range", "").rpartition("/")[2]
        else:
            self._file_position = 0
        return int(total) if total.isdigit() else None

    def _receive(self, count: int) -> bytes:
        """What has arrived of the next `count` bytes; raises OSError for a cut or a trickle."""
        began = time.monotonic()
        data: bytes = getattr(self._file, "read1", self._file.read)(count)
        self._seconds += time.monotonic() - began
        self._bytes += len(data)
        self._file_position += len(data)
        if not data:
            if self.size is not None and self._file_position < self.size:
                raise ConnectionError(f"cut after {self._file_position} of {self.size} bytes")
            self.size = self._file_position  # of a server that does not say how long the file is
        if self._seconds > self._policy.timeout:
            if self._bytes < _LEAST_RATE * self._seconds:
                raise TimeoutError(f"{self._bytes} bytes in {self._seconds:.3g} s")
            self._bytes, self._seconds = 0, 0.0
        return data

    def _hang_up(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _request(url: str, position: int) -> Request:
    """The request for an http(s) file from a byte on, with the address's user and password."""
    headers = {"User-Agent": "tiny-audio"}
    if position:
        headers["Range"] = f"bytes={position}-"
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if user:
        secret = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        headers["Authorization"] = f"Basic {secret}"
    address = parts._replace(netloc=host).geturl()
    return Request(urllib.parse.quote(address, safe=string.punctuation), headers=headers)


def _describe(error: Exception) -> tuple[str, bool]:
    """What happened, without the secrets of an address, and whether it would happen again."""
    if isinstance(error, HTTPError):
        error.close()
        return f"the server answers {error.code} {error.reason}", error.code in _PERMANENT_STATUS
    if isinstance(error, FileNotFoundError):
        return "there is no such file (404)", True
    if isinstance(error, URLError) and isinstance(error.reason, OSError):
        error = error.reason
    what = (isinstance(error, OSError) and error.strerror) or first_line(error)
    return re.sub(r"\?\S*|(?<=//)[^/@\s]*@", "", what), isinstance(error, _PERMANENT)
