"""Any place a recording can lie in, to a binary file that can seek.

A download or a pipe is copied first, in memory while it is small and to a temporary file from
there, so that the decoders may go back and forth in it.
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
from typing import Any, BinaryIO

from tiny_audio.errors import AudioError

_MAX_BYTES = 2 << 30  # of a download or a pipe
_IN_MEMORY_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20
_SILENCE_SECONDS = 15.0  # of a server before giving up
_DOWNLOAD_SECONDS = 600.0  # altogether

Source = str | os.PathLike[str] | bytes | BinaryIO


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, str]]:
    """Open a source at its first byte and name it for messages.

    A file object is read from its start if it can go back; it stays open.

    Raises:
        AudioError: ``unreadable``, ``empty``, ``too_long`` (in bytes) or ``truncated`` (a
            download that ended early).
    """
    with ExitStack() as stack:
        file, name = _open(source, stack)
        if file.seek(0, os.SEEK_END) == 0:
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


def _open(source: Source, stack: ExitStack) -> tuple[BinaryIO, str]:
    """Find the bytes of a source; what has to be closed or deleted goes on the stack."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), f"the audio of {len(source)} bytes"
    if isinstance(source, str) and _is_url(source):
        # The query may hold a signature, the user part a password: neither belongs in a message.
        parts = urllib.parse.urlsplit(source)
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        copy = stack.enter_context(_temporary())
        _download(source, copy, name)
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
    try:
        if file.seekable():
            file.seek(0)
        _copy(file.read, copy, name)
    except (OSError, ValueError, AttributeError) as error:
        raise AudioError(f"{name} cannot be read: {error}", reason="unreadable") from error
    return copy, name


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


def _download(url: str, copy: BinaryIO, name: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "tiny-audio"})
    try:
        with urllib.request.urlopen(request, timeout=_SILENCE_SECONDS) as response:
            expected = response.headers.get("Content-Length", "")
            size = _copy(response.read1, copy, name, seconds=_DOWNLOAD_SECONDS)
    except urllib.error.HTTPError as error:
        raise AudioError(
            f"{name}: the server answers {error.code} {error.reason}", reason="unreadable"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        what = getattr(error, "reason", error)
        raise AudioError(f"{name} cannot be downloaded: {what}", reason="unreadable") from error
    if expected.isdigit() and size < int(expected):
        raise AudioError(
            f"{name}: the download ended after {size} of {expected} bytes; try again",
            reason="truncated",
        )


def _copy(
    read: Callable[[int], bytes], copy: BinaryIO, name: str, seconds: float = math.inf
) -> int:
    """Copy all there is to a file that can seek, within limits of size and time."""
    size, start = 0, time.monotonic()
    while chunk := read(_CHUNK_BYTES):
        if not isinstance(chunk, bytes):
            raise AudioError(f"{name} is opened as text: open it as 'rb'", reason="unreadable")
        size += len(chunk)
        if size > _MAX_BYTES:
            raise AudioError(
                f"{name} is larger than {_MAX_BYTES >> 30} GiB: save and split it first",
                reason="too_long",
            )
        if time.monotonic() - start > seconds:
            raise AudioError(
                f"{name}: the download takes more than {seconds:g} s", reason="unreadable"
            )
        copy.write(chunk)
    return size
