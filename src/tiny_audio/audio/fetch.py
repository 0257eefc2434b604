"""Any place a recording can lie in, to a binary file that can seek.

A download or a pipe is copied, in memory while it is small and to a temporary file from there, so
that the decoders may go back and forth in it: to its end first, or as it is read.
"""

from __future__ import annotations

import http.client
import io
import math
import os
import stat
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, cast

from tiny_audio.errors import AudioError

_MAX_DOWNLOAD, _MAX_PIPE = 1 << 30, 2 << 30  # bytes, unless another limit is given
_IN_MEMORY_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20
_SILENCE_SECONDS = 15.0  # of a server before giving up
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
        whole: False: hand over a pipe as an `Arriving`, before all of it is there.

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
    if isinstance(source, str) and _is_url(source):
        return False
    if isinstance(source, (str, os.PathLike)):
        try:
            return not stat.S_ISFIFO(os.stat(source).st_mode)
        except (OSError, ValueError):
            return True  # and opening it will say what is wrong
    return isinstance(source, (bytes, bytearray, memoryview)) or _is_plain(source)


def _open(
    source: Source, stack: ExitStack, max_bytes: int | None, whole: bool
) -> tuple[BinaryIO, str]:
    """Find the bytes of a source; what has to be closed or deleted goes on the stack."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), f"the audio of {len(source)} bytes"
    if isinstance(source, str) and _is_url(source):
        # The query may hold a signature, the user part a password: neither belongs in a message.
        parts = urllib.parse.urlsplit(source)
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        copy = stack.enter_context(_temporary())
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

    def receive(size: int) -> bytes:
        try:
            if arriving.size == 0 and file.seekable():
                file.seek(0)
            found: bytes = getattr(file, "read1", file.read)(size)
        except (OSError, ValueError, AttributeError) as error:
            raise AudioError(f"{name} cannot be read: {error}", reason="unreadable") from error
        return found

    arriving = Arriving(receive, copy, name, most=max_bytes or _MAX_PIPE)
    if whole:
        arriving.wait_for(math.inf)
    return (copy if whole else cast(BinaryIO, arriving)), name


def _open_path(path: str) -> BinaryIO:
    try:
        if os.path.isdir(path):
            raise AudioError(f"{path} is a folder: name the audio files in it", reason="unreadable")
        if os.path.exists(path) and not (
            os.path.isfile(path) or stat.S_ISFIFO(os.stat(path).st_mode)
        ):
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


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _download(url: str, copy: BinaryIO, name: str, most: int) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "tiny-audio"})
    try:
        with urllib.request.urlopen(request, timeout=_SILENCE_SECONDS) as response:
            expected = response.headers.get("Content-Length", "")
            if expected.isdigit() and int(expected) > most:
                raise _too_large(name, most)
            arriving = Arriving(response.read1, copy, name, most=most, seconds=_DOWNLOAD_SECONDS)
            arriving.wait_for(math.inf)
    except urllib.error.HTTPError as error:
        raise AudioError(
            f"{name}: the server answers {error.code} {error.reason}", reason="unreadable"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        what = getattr(error, "reason", error)
        raise AudioError(f"{name} cannot be downloaded: {what}", reason="unreadable") from error
    if expected.isdigit() and arriving.size < int(expected):
        raise AudioError(
            f"{name}: the download ended after {arriving.size} of {expected} bytes; try again",
            reason="truncated",
        )


class Arriving:
    """What a pipe or a server sends, kept in a file that can seek; the rest is waited for.

    Args:
        receive: gives up to so many bytes, none at the end.
        copy: where they are kept.
        most: bytes, more are refused.
        seconds: of waiting altogether.
    """

    def __init__(
        self,
        receive: Callable[[int], bytes],
        copy: BinaryIO,
        name: str,
        *,
        most: int,
        seconds: float = math.inf,
    ) -> None:
        self._receive, self._copy, self._name = receive, copy, name
        self._most, self._seconds = most, seconds
        self.size, self.ended = 0, False
        self.tell = copy.tell

    def must_seek(self) -> bool:
        """Whether the format (MP4, CAF) may keep at its end what its audio cannot be read without.

        In others FFmpeg, if it could, would look for more behind the audio at once.
        """
        place = self.tell()
        self.seek(0)
        head = self.read(8)
        self.seek(place)
        return head[4:] == b"ftyp" or head[:4] == b"caff"

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all; fewer only at the end."""
        self.wait_for(math.inf if size < 0 else self.tell() + size)
        return self._copy.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, waiting for it; -1 for one counted from an end that is not there yet."""
        if whence == os.SEEK_END:
            return self._copy.seek(offset, whence) if self.ended else -1
        self.wait_for(offset + (self.tell() if whence == os.SEEK_CUR else 0))
        return self._copy.seek(offset, whence)

    def wait_for(self, end: float) -> None:
        """Receive until `end` bytes are there, or all there are."""
        place = self.tell()
        self._copy.seek(self.size)
        while self.size < end and not self.ended:
            start = time.monotonic()
            chunk = self._receive(_CHUNK_BYTES)
            self._seconds -= time.monotonic() - start
            if not isinstance(chunk, bytes):
                raise AudioError(
                    f"{self._name} is opened as text: open it as 'rb'", reason="unreadable"
                )
            self.ended = not chunk
            self.size += len(chunk)
            if self.size > self._most:
                raise _too_large(self._name, self._most)
            if self._seconds < 0:
                raise AudioError(
                    f"{self._name}: the download takes more than {_DOWNLOAD_SECONDS:g} s",
                    reason="unreadable",
                )
            self._copy.write(chunk)
        self._copy.seek(place)


def _too_large(name: str, most: int) -> AudioError:
    return AudioError(
        f"{name} is larger than the {most / (1 << 30):.3g} GiB allowed: allow more with "
        "--max-download, or save and split it first",
        reason="too_long",
    )
