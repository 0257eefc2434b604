"""Any place a file can lie in, to a binary file that can seek.

Remote files are read to the end in spite of a failing server: a lost connection is taken up again
at the byte where it broke, after waits that double. http(s) is urllib's; s3://, gs://, az://,
hf:// and the like are fsspec's, and need its package for them (s3fs, gcsfs, adlfs,
huggingface_hub). A recording that is downloaded or comes from a pipe is copied to memory, from 32
MiB on to a temporary file.
"""

from __future__ import annotations

import base64
import io
import os
import random
import re
import stat
import string
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tiny_audio.errors import AudioError, first_line

UNREACHABLE, CORRUPT = "unreachable", "corrupt"

_LONGEST_WAIT = 60.0  # seconds between two attempts
_LEAST_RATE = 1024  # bytes a second: what is slower has stalled
_PROGRESS = 1 << 15  # bytes after which earlier failures are forgotten
_SKIP = 1 << 18  # bytes that are read over rather than asked for anew
_BUFFER = 1 << 20
_BLOCK = 1 << 22  # of an object store, fetched at a time
_PERMANENT = (FileNotFoundError, PermissionError, ValueError, ImportError)  # retrying cannot help
_PERMANENT_STATUS = (401, 403, 404, 410)
_MAX_DOWNLOAD, _MAX_PIPE = 1 << 30, 2 << 30  # bytes, unless another limit is given
_IN_MEMORY_BYTES, _CHUNK_BYTES = 32 << 20, 1 << 20

Source = str | os.PathLike[str] | bytes | BinaryIO


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


_RETRIES = RetryPolicy(retries=2, backoff=0.2, timeout=15.0)  # of a recording


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
            if (size := self.length()) is None:
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


@contextmanager
def opened(
    source: Source, *, max_bytes: int | None = None, whole: bool = True
) -> Iterator[tuple[BinaryIO, str]]:
    """Open a source at its first byte and name it for messages; file objects stay open.

    Args:
        max_bytes: refuse an address or a pipe of more; None: than 1 GiB and 2 GiB.
        whole: False: hand over a pipe as a `PipeCopy`, before all of it is there.

    Raises AudioError: ``unreadable``, ``empty``, ``too_long`` or ``truncated``.
    """
    with ExitStack() as stack:
        file, name = _find(source, stack)
        plain = isinstance(file, (io.BytesIO, io.BufferedReader, io.BufferedRandom))
        if not plain or file.closed or not file.seekable():
            copy = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))
            remote = isinstance(file, RemoteFile)
            limit = max_bytes or (_MAX_DOWNLOAD if remote else _MAX_PIPE)
            file = PipeCopy(file, copy, name, limit)
            head = b""
            while len(head) < 12 and (more := file.read(12 - len(head))):
                head += more
            # MP4 and CAF may keep at their end what is needed first.
            if whole or remote or head[4:8] == b"ftyp" or head.startswith(b"caff"):
                while file.read(_CHUNK_BYTES):
                    pass
                file = copy
        file.seek(0)
        if not file.read(1):
            raise AudioError(f"{name} is empty", "empty")
        file.seek(0)
        yield file, name


def _find(source: Source, stack: ExitStack) -> tuple[Any, str]:
    """The bytes of a source and its name; what has to be closed goes on the stack."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), f"the audio of {len(source)} bytes"
    if isinstance(source, str) and is_remote(source):
        return stack.enter_context(RemoteFile(source, _RETRIES)), plain_url(source)
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return stack.enter_context(_open_path(name)), name
    if hasattr(source, "read"):
        return source, f"the file object {getattr(source, 'name', type(source).__name__)}"
    kinds = "a path, an address, bytes, a file object, an array or a tensor"
    message = f"cannot read audio from a {type(source).__name__}: give {kinds}"
    raise AudioError(message, "unreadable")


def _open_path(path: str) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise AudioError(f"{path} is a folder or a device: name a recording", "unreadable")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file", "unreadable") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise AudioError(f"{path!r} cannot be opened: {error}", "unreadable") from error


class PipeCopy:
    """A pipe or a download as it comes in; `copy`, which can seek, keeps what has come so far."""

    def __init__(self, pipe: Any, copy: Any, name: str, max_bytes: int) -> None:
        self._pipe, self.copy, self._name, self._max_bytes = pipe, copy, name, max_bytes
        self.seek, self.tell = copy.seek, copy.tell

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many; none at the end."""
        data: bytes = self.copy.read(size) or self._receive(size)
        return data

    def _receive(self, size: int) -> bytes:
        try:
            if self.tell() == 0 and isinstance(self._pipe, RemoteFile):
                self._check_size(self._pipe.length() or 0)
            elif self.tell() == 0 and self._pipe.seekable():
                self._pipe.seek(0)
            data = getattr(self._pipe, "read1", self._pipe.read)(size)
        except UnreadableError as error:
            reason = "unreadable" if self._pipe.size is None else "truncated"
            raise AudioError(f"{self._name} cannot be downloaded: {error}", reason) from error
        except (OSError, ValueError, AttributeError) as error:
            raise AudioError(f"{self._name} cannot be read: {error}", "unreadable") from error
        if not isinstance(data, bytes):
            raise AudioError(f"{self._name} is opened as text: open it as 'rb'", "unreadable")
        self._check_size(self.tell() + len(data))
        self.copy.write(data)
        return data

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            allowed = f"the {self._max_bytes / (1 << 30):.3g} GiB allowed"
            remedy = "allow more with --max-download, or save and split it first"
            raise AudioError(f"{self._name} is larger than {allowed}: {remedy}", "too_long")
