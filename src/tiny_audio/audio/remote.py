"""Remote files through fsspec: seekable, and read to the end in spite of a failing server.

A lost connection is taken up again at the byte where it broke, after waits that double. s3://,
gs://, az://, hf:// and the like need fsspec's package (s3fs, gcsfs, adlfs, huggingface_hub) and
take credentials from its usual places.
"""

from __future__ import annotations

import io
import math
import os
import random
import re
import time
import urllib.parse
from dataclasses import dataclass
from threading import Event
from typing import Any

UNREACHABLE, CORRUPT = "unreachable", "corrupt"

_LONGEST_WAIT = 60.0  # seconds between two attempts
_LEAST_RATE = 1024  # bytes a second: what is slower has stalled
_PROGRESS = 1 << 15  # bytes after which earlier failures are forgotten
_SKIP = 1 << 18  # bytes that are read over rather than asked for anew
_BUFFER = 1 << 20
_BLOCK = 1 << 22  # of an object store, fetched at a time
# Bytes asked for after a failure: aiohttp drops what it holds of an answer that breaks off, so
# that only small ones get to the place where it does.
_WINDOW = 1 << 14
_PERMANENT = (FileNotFoundError, PermissionError, ValueError, ImportError)  # retrying cannot help
_PERMANENT_STATUS = (401, 403, 404, 410)


class UnreadableError(Exception):
    """A file cannot be read, or not to its end; `reason` is ``unreachable`` or ``corrupt``."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server is waited for.

    Args:
        retries: further attempts without any progress before a file is given up.
        backoff: seconds before the first of them; each later wait is twice as long.
        timeout: seconds without data after which a connection counts as lost.
    """

    retries: int = 5
    backoff: float = 1.0
    timeout: float = 30.0

    def wait(self, failures: int, stopped: Event) -> None:
        """Sleep after so many failures in a row, ± a quarter; a set event ends the sleep."""
        seconds = min(self.backoff * 2 ** (failures - 1), _LONGEST_WAIT)
        stopped.wait(seconds * random.Random().uniform(0.75, 1.25))


def is_remote(path: str) -> bool:
    """Whether a path is an address that fsspec opens, such as https://… or s3://…."""
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

    options = {"client_kwargs": {"trust_env": True}} if is_http(url) else {}  # proxies
    try:
        fs, path = url_to_fs(url, **options)
    except (ImportError, ValueError) as error:  # not installed, no such protocol
        raise UnreadableError(str(error), UNREACHABLE) from error
    return fs, path


def open_remote(url: str, policy: RetryPolicy, stopped: Event | None = None) -> io.BufferedReader:
    """Open an address as a file that can seek. Nothing is asked of the server yet.

    Reading raises UnreadableError when the server stays away; a set `stopped` ends waits early.
    """
    return io.BufferedReader(RemoteFile(url, policy, stopped), _BUFFER)


class RemoteFile(io.RawIOBase):
    """Reads from one open fsspec file as long as it can, else opens it again where it broke."""

    def __init__(self, url: str, policy: RetryPolicy, stopped: Event | None = None) -> None:
        self._url, self._policy, self._stopped = url, policy, stopped or Event()
        self.size: int | None = None
        self._position = 0  # of the reader
        self._file: Any = None
        self._file_position, self._file_end = 0, math.inf
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
                what, permanent = _describe(error, self._policy.timeout)
                if permanent or self._failures > self._policy.retries or self._stopped.is_set():
                    message = f"{what} (tried {self._failures} times)"
                    raise UnreadableError(message, UNREACHABLE) from error
            else:
                self._since += len(data)
                if self._since >= _PROGRESS:
                    self._failures = 0
                return data
            self._policy.wait(self._failures, self._stopped)

    def _read(self, count: int) -> bytes:
        if self.size is not None and self._position >= self.size:
            return b""
        gap = self._position - self._file_position
        if self._file is None or self._position >= self._file_end or not 0 <= gap <= _SKIP:
            self._hang_up()
            self._open()
        data = b"more"
        while data and self._file_position < self._position:
            data = self._receive(min(self._position - self._file_position, _BUFFER))
        return self._receive(count) if data and count else b""

    def _open(self) -> None:
        """Open a file at the reader's position, or at 0 where the server knows no ranges."""
        fs, path = file_system(self._url)
        self._file_position, self._file_end = self._position, math.inf
        self._bytes, self._seconds = 0, 0.0
        if is_http(self._url):
            self._open_http(fs)
        else:
            self._file = fs.open(path, "rb", block_size=_BLOCK)
            self._set_size(getattr(self._file, "size", None))
            self._file.seek(self._position)

    def _open_http(self, fs: Any) -> None:
        """Stream one response. fsspec's own seekable file would ask anew for every block."""
        from aiohttp import ClientTimeout

        headers = {"User-Agent": "tiny-audio", "Accept-Encoding": "identity"}
        end = self._position + _WINDOW if self._failures else math.inf
        if self._position or self._failures:
            headers["Range"] = f"bytes={self._position}-{'' if math.isinf(end) else end - 1}"
        wait = self._policy.timeout
        timeout = ClientTimeout(total=None, sock_connect=wait, sock_read=wait)
        # With a size, it does not ask for one.
        options = {"headers": headers, "timeout": timeout, "read_bufsize": _BUFFER}
        self._file = fs.open(self._url, block_size=0, size=1, **options)
        response = self._file.r
        total = response.headers.get("Content-Length", "")
        if response.status == 206:
            self._file_end = end
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
        else:
            self._file_position = 0
        self._set_size(int(total) if total.isdigit() else None)

    def _set_size(self, size: int | None) -> None:
        if size is not None and self.size is not None and size != self.size:
            raise UnreadableError("the file changed while it was read", CORRUPT)
        self.size = self.size if size is None else size

    def _receive(self, count: int) -> bytes:
        """What has arrived of the next `count` bytes; raises OSError for a cut or a trickle."""
        began = time.monotonic()
        data: bytes = self._file.read(count)
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


def _describe(error: Exception, timeout: float) -> tuple[str, bool]:
    """What happened, without the secrets of an address, and whether it would happen again."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        what = f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
        return what, status in _PERMANENT_STATUS
    if isinstance(error, FileNotFoundError):
        return "there is no such file (404)", True
    if isinstance(error, TimeoutError):
        return str(error) or f"nothing came for {timeout:g} s", False
    if type(error).__name__ == "ClientPayloadError":
        return "the connection was cut", False
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0), isinstance(error, _PERMANENT)
    line = re.sub(r"\?\S*|(?<=//)[^/@\s]*@", "", first_line(error))
    return line, isinstance(error, _PERMANENT)


def first_line(error: Exception) -> str:
    """What an error says, shortened to one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
