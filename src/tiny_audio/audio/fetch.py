"""Any place a recording can lie in, to a binary file that can seek.

A download or a pipe is copied to memory, from 32 MiB on to a temporary file.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from tiny_audio.audio.remote import RemoteFile, RetryPolicy, UnreadableError, is_remote, plain_url
from tiny_audio.errors import AudioError

_MAX_DOWNLOAD, _MAX_PIPE = 1 << 30, 2 << 30  # bytes, unless another limit is given
_IN_MEMORY_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20
_RETRIES = RetryPolicy(retries=2, backoff=0.2, timeout=15.0)

Source = str | os.PathLike[str] | bytes | BinaryIO


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
            raise AudioError(f"{name} is empty", reason="empty")
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
    raise AudioError(message, reason="unreadable")


def _open_path(path: str) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path} is a folder: name the audio files in it", reason="unreadable")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise AudioError(f"{path} is a device, not a file", reason="unreadable")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file", reason="unreadable") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise AudioError(f"{path!r} cannot be opened: {error}", reason="unreadable") from error


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
            if (size_there := self._pipe.size) is None:
                message = f"{self._name} cannot be downloaded: {error}"
                raise AudioError(message, reason="unreadable") from error
            ended = f"the download ended after {self.tell()} of {size_there} bytes"
            message = f"{self._name}: {ended}: {error}; try again"
            raise AudioError(message, reason="truncated") from error
        except (OSError, ValueError, AttributeError) as error:
            message = f"{self._name} cannot be read: {error}"
            raise AudioError(message, reason="unreadable") from error
        if not isinstance(data, bytes):
            message = f"{self._name} is opened as text: open it as 'rb'"
            raise AudioError(message, reason="unreadable")
        self._check_size(self.tell() + len(data))
        self.copy.write(data)
        return data

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            allowed = f"the {self._max_bytes / (1 << 30):.3g} GiB allowed"
            remedy = "allow more with --max-download, or save and split it first"
            message = f"{self._name} is larger than {allowed}: {remedy}"
            raise AudioError(message, reason="too_long")
