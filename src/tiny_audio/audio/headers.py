"""What the first and last bytes of a recording tell that the decoders do not.

libsndfile reads a file that breaks off as if it were whole, and FFmpeg guesses the length of an
MP3 that does not count its frames.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from typing import BinaryIO

LIBSNDFILE_MAGIC = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff", b".snd", b"NIST", b"riff")
_MORE_MAGIC = (b"ID3", b"\x1aE\xdf\xa3", b"#!AMR", b"0&\xb2u", b"wvpk", b"MAC ", b"TTA1")

_PIPED_LENGTH = 0x7FFF0000  # a chunk length from here on was written to a pipe: not known
_OGG_PAGE_BYTES = 65_307  # at most


def declared_over_held(file: BinaryIO) -> float:
    """How many times more audio a file for libsndfile declares than it holds.

    Returns:
        1 for a whole file and where no length is declared, infinity for one that breaks off
        without telling how much is missing.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        return _last_ogg_page(file, size)
    found = _DECLARED[magic](file) if magic in _DECLARED else None
    if found is None:
        return 1.0
    start, length = found
    held = size - start
    if length <= held:
        return 1.0
    return length / held if held > 0 else math.inf


def _last_ogg_page(file: BinaryIO, size: int) -> float:
    """1 if the file ends with a whole page, infinity if in the midst of one."""
    file.seek(max(0, size - _OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]  # header of 27 bytes, segment table, segments
    segments = page[26] if len(page) >= 27 else 0
    whole = 27 + segments + sum(page[27 : 27 + segments])
    return 1.0 if len(page) >= whole else math.inf


Span = tuple[int, int]  # first byte of the audio and its length as the header declares it


def _riff(file: BinaryIO) -> Span | None:
    return _chunk(file, "<4sI", b"data", start=12, unknown=_PIPED_LENGTH)


def _rf64(file: BinaryIO) -> Span | None:
    """The length of 64 bits stands in a chunk of its own, the first."""
    file.seek(12)
    first = file.read(24)
    found = _chunk(file, "<4sI", b"data", start=12)
    if found is None or not first.startswith(b"ds64") or len(first) < 24:
        return None
    return found[0], int.from_bytes(first[16:24], "little")


def _aiff(file: BinaryIO) -> Span | None:
    return _chunk(file, ">4sI", b"SSND", start=12, unknown=_PIPED_LENGTH)


def _caf(file: BinaryIO) -> Span | None:
    return _chunk(file, ">4sQ", b"data", start=8, align=1, unknown=1 << 63)


def _w64(file: BinaryIO) -> Span | None:
    return _chunk(file, "<4s12xQ", b"data", start=40, align=8, counts_itself=True)


def _au(file: BinaryIO) -> Span | None:
    file.seek(4)
    header = file.read(8)
    start, length = struct.unpack(">II", header) if len(header) == 8 else (0, 0)
    return None if length >= _PIPED_LENGTH else (start, length)


def _sphere(file: BinaryIO) -> Span | None:
    """NIST's header is text: its size, then `name -type value` a line."""
    file.seek(0)
    lines = file.read(1_024).decode("latin-1").split("\n")
    values = {line.split()[0]: line.split()[-1] for line in lines[2:] if len(line.split()) == 3}
    if "," in values.get("sample_coding", ""):  # compressed
        return None
    try:
        names = ("sample_count", "channel_count", "sample_n_bytes")
        return int(lines[1]), math.prod(int(values[name]) for name in names)
    except (IndexError, KeyError, ValueError):
        return None


_DECLARED: dict[bytes, Callable[[BinaryIO], Span | None]] = {
    b"RIFF": _riff, b"RF64": _rf64, b"FORM": _aiff, b"caff": _caf, b"riff": _w64, b".snd": _au,
    b"NIST": _sphere,
}  # fmt: skip


def _chunk(
    file: BinaryIO,
    form: str,
    wanted: bytes,
    *,
    start: int,
    align: int = 2,
    unknown: int | None = None,
    counts_itself: bool = False,
) -> Span | None:
    """Find a chunk among those from byte `start` on; None if it is not there or of no length.

    Args:
        form: of a chunk's header, name and length, for ``struct``.
        align: bytes to a multiple of which chunks are padded.
        unknown: a length from here on means that it was not known when the header was written.
        counts_itself: whether a chunk's length includes its header.
    """
    position, size, end = start, struct.calcsize(form), file.seek(0, os.SEEK_END)
    for _ in range(1000):  # a real file has a few
        file.seek(min(position, end))
        header = file.read(size)
        if len(header) < size:
            return None
        name, length = struct.unpack(form, header)
        length -= size if counts_itself else 0
        position += size
        if name == wanted:
            return None if unknown is not None and length >= unknown else (position, length)
        position += max(0, -(-length // align) * align)
    return None


def looks_like_audio(head: bytes) -> bool:
    """Tell a sound or video file that is damaged from a file of another kind."""
    if head.startswith(b"RIFF"):
        return head[8:12] in (b"WAVE", b"AVI ", b"")
    mp3 = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFF
    return mp3 or head[4:8] == b"ftyp" or head.startswith(LIBSNDFILE_MAGIC + _MORE_MAGIC)


def has_mp3_count(file: BinaryIO) -> bool:
    """Whether the first MP3 frame counts the frames of the file (Xing, LAME and VBRI headers)."""
    file.seek(0)
    head = file.read(10)
    if head.startswith(b"ID3") and len(head) == 10:
        a, b, c, d = head[6:10]  # 7 bits in each byte
        file.seek(10 + (a << 21 | b << 14 | c << 7 | d))
        head = file.read(4)
    frame = head + file.read(200)
    return frame[0:1] == b"\xff" and any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))
