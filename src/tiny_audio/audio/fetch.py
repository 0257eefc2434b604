"""Any place a recording can lie in, to a binary file that can seek.

A download or a pipe is copied to memory, from 32 MiB on to a temporary file.
"""

from __future__ import annotations

import io
import math
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
            if whole or remote:
                file.wait_for(math.inf)
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
    raise AudioError(
        f"cannot read audio from a {type(source).__name__}: give a path, an address, bytes, "
        "a file object, an array or a tensor",
        reason="unreadable",
    )


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
    """What a pipe or a download sends, kept in a file that can seek; the rest is waited for."""

    def __init__(self, pipe: Any, copy: Any, name: str, max_bytes: int) -> None:
        self._pipe, self._copy, self._name, self._max_bytes = pipe, copy, name, max_bytes
        self._size, self.ended = 0, False
        self.tell = copy.tell

    def must_seek(self) -> bool:
        """Whether the format (MP4, CAF) may keep at its end what is needed first.

        In others FFmpeg, if it could, would look at the end too, and wait for all.
        """
        position = self.tell()
        self.seek(0)
        head = self.read(8)
        self.seek(position)
        return head[4:] == b"ftyp" or head[:4] == b"caff"

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all; fewer only at the end."""
        self.wait_for(math.inf if size < 0 else self.tell() + size)
        data: bytes = self._copy.read(size)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, waiting for it; -1 for one counted from an end not yet there."""
        if whence == os.SEEK_END and not self.ended:
            return -1
        if whence != os.SEEK_END:
            self.wait_for(offset + (self.tell() if whence == os.SEEK_CUR else 0))
        self._copy.seek(offset, whence)
        return int(self.tell())

    def wait_for(self, end: float) -> None:
        """Receive until `end` bytes are there, or all there are."""
        position = self.tell()
        self._copy.seek(self._size)
        while self._size < end and not self.ended:
            chunk = self._receive()
            if not isinstance(chunk, bytes):
                message = f"{self._name} is opened as text: open it as 'rb'"
                raise AudioError(message, reason="unreadable")
            self.ended = not chunk
            self._size += len(chunk)
            self._check_size(self._size)
            self._copy.write(chunk)
        self._copy.seek(position)

    def _receive(self) -> Any:
        try:
            if self._size == 0 and isinstance(self._pipe, RemoteFile):
                self._check_size(self._pipe.length() or 0)
            elif self._size == 0 and self._pipe.seekable():
                self._pipe.seek(0)
            return getattr(self._pipe, "read1", self._pipe.read)(_CHUNK_BYTES)
        except UnreadableError as error:
            what, reason = f" cannot be downloaded: {error}", "unreadable"
            if (size := self._pipe.size) is not None:
                what = (
                    f": the download ended after {self._size} of {size} bytes: {error}; try again"
                )
                reason = "truncated"
            raise AudioError(self._name + what, reason=reason) from error
        except (OSError, ValueError, AttributeError) as error:
            message = f"{self._name} cannot be read: {error}"
            raise AudioError(message, reason="unreadable") from error

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise AudioError(
                f"{self._name} is larger than the {self._max_bytes / (1 << 30):.3g} GiB allowed: "
                "allow more with --max-download, or save and split it first",
                reason="too_long",
            )
