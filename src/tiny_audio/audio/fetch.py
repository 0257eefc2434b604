"""Any place a recording can lie in, to a binary file that can seek.

A download or a pipe is copied, in memory while it is small and to a temporary file from there, so
that the decoders may go back and forth in it: to its end first, or as it is read.
"""

from __future__ import annotations

import io
import math
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, cast

from tiny_audio.audio.remote import (
    RemoteFile,
    RetryPolicy,
    UnreadableError,
    is_remote,
    plain_url,
)
from tiny_audio.errors import AudioError

_MAX_DOWNLOAD, _MAX_PIPE = 1 << 30, 2 << 30  # bytes, unless another limit is given
_IN_MEMORY_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20
_RETRIES = RetryPolicy(retries=2, backoff=0.2, timeout=15.0)
_DOWNLOAD_SECONDS = 600.0  # altogether

Source = str | os.PathLike[str] | bytes | BinaryIO


@contextmanager
def opened(
    source: Source, *, max_bytes: int | None = None, whole: bool = True
) -> Iterator[tuple[BinaryIO, str]]:
    """Open a source at its first byte and name it for messages.

    A file object is read from its start if it can go back; it stays open.

    Args:
        max_bytes: refuse an address or a pipe of more; None: than 1 GiB and 2 GiB.
        whole: False: hand over a pipe as a `PipeCopy`, before all of it is there.

    Raises:
        AudioError: ``unreadable``, ``empty``, ``too_long`` (in bytes) or ``truncated`` (a
            download that ended early).
    """
    with ExitStack() as stack:
        file, name = _open(source, stack, max_bytes, whole)
        file.seek(0)
        if not file.read(1):
            raise AudioError(f"{name} is empty", reason="empty")
        file.seek(0)
        yield file, name


def can_rewind(source: Source) -> bool:
    """Whether looking into the source is cheap and takes nothing from a later reader."""
    if isinstance(source, (str, os.PathLike)):
        with suppress(OSError, ValueError):  # opening it will say what is wrong
            return not stat.S_ISFIFO(os.stat(source).st_mode)
        return not is_remote(str(source))
    return isinstance(source, (bytes, bytearray, memoryview)) or _is_plain(source)


def _open(
    source: Source, stack: ExitStack, max_bytes: int | None, whole: bool
) -> tuple[BinaryIO, str]:
    """Find the bytes of a source; what has to be closed or deleted goes on the stack."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), f"the audio of {len(source)} bytes"
    if isinstance(source, str) and is_remote(source):
        copy, name = stack.enter_context(_temporary()), plain_url(source)
        _download(source, copy, name, max_bytes or _MAX_DOWNLOAD)
        return copy, name
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        file = stack.enter_context(_open_path(name))
    elif hasattr(source, "read"):
        name = f"the file object {getattr(source, 'name', type(source).__name__)}"
        file = source
    else:
        raise AudioError(
            f"cannot read audio from a {type(source).__name__}: give a path, an address, bytes, "
            "a file object, an array or a tensor",
            reason="unreadable",
        )
    if _is_plain(file):
        return file, name
    copy = stack.enter_context(_temporary())
    pipe = PipeCopy(file, copy, name, max_bytes or _MAX_PIPE)
    if whole:
        pipe.wait_for(math.inf)
    return (copy if whole else cast(BinaryIO, pipe)), name


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


def _is_plain(file: object) -> bool:
    """Whether a file object is one of Python's own that the decoders may use as it is."""
    if not isinstance(file, (io.BytesIO, io.BufferedReader, io.BufferedRandom)):
        return False
    return not file.closed and file.seekable()


def _temporary() -> Any:
    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)


def _download(url: str, copy: BinaryIO, name: str, max_bytes: int) -> None:
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    remote = RemoteFile(url, _RETRIES)
    try:
        with io.BufferedReader(remote, _CHUNK_BYTES) as file:
            if (remote.length() or 0) > max_bytes:
                raise _too_large(name, max_bytes)
            while chunk := file.read1(_CHUNK_BYTES):
                copy.write(chunk)
                if copy.tell() > max_bytes:
                    raise _too_large(name, max_bytes)
                if time.monotonic() > deadline:
                    message = f"{name}: the download takes more than {_DOWNLOAD_SECONDS:g} s"
                    raise AudioError(message, reason="unreadable")
    except UnreadableError as error:
        if remote.size is not None:
            ended = f"the download ended after {copy.tell()} of {remote.size} bytes"
            message = f"{name}: {ended}: {error}; try again"
            raise AudioError(message, reason="truncated") from error
        message = f"{name} cannot be downloaded: {error}"
        raise AudioError(message, reason="unreadable") from error


class PipeCopy:
    """What a pipe sends, kept in a file that can seek; the rest is waited for.

    Args:
        pipe: read from its start if it can go back.
        copy: where its bytes are kept.
        max_bytes: more are refused.
    """

    def __init__(self, pipe: BinaryIO, copy: BinaryIO, name: str, max_bytes: int) -> None:
        self._pipe, self._copy, self._name, self._max_bytes = pipe, copy, name, max_bytes
        self._size, self.ended = 0, False
        self.tell = copy.tell

    def must_seek(self) -> bool:
        """Whether the format (MP4, CAF) may keep at its end what its audio cannot be read without.

        In others FFmpeg, if it could, would look for more behind the audio at once.
        """
        position = self.tell()
        self.seek(0)
        head = self.read(8)
        self.seek(position)
        return head[4:] == b"ftyp" or head[:4] == b"caff"

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all; fewer only at the end."""
        self.wait_for(math.inf if size < 0 else self.tell() + size)
        return self._copy.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, waiting for it; -1 for one counted from an end not yet there."""
        if whence == os.SEEK_END:
            return self._copy.seek(offset, whence) if self.ended else -1
        self.wait_for(offset + (self.tell() if whence == os.SEEK_CUR else 0))
        return self._copy.seek(offset, whence)

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
            if self._size > self._max_bytes:
                raise _too_large(self._name, self._max_bytes)
            self._copy.write(chunk)
        self._copy.seek(position)

    def _receive(self) -> Any:
        try:
            if self._size == 0 and self._pipe.seekable():
                self._pipe.seek(0)
            return getattr(self._pipe, "read1", self._pipe.read)(_CHUNK_BYTES)
        except (OSError, ValueError, AttributeError) as error:
            message = f"{self._name} cannot be read: {error}"
            raise AudioError(message, reason="unreadable") from error


def _too_large(name: str, max_bytes: int) -> AudioError:
    return AudioError(
        f"{name} is larger than the {max_bytes / (1 << 30):.3g} GiB allowed: allow more with "
        "--max-download, or save and split it first",
        reason="too_long",
    )
