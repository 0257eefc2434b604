"""What the first and last bytes of a recording tell that the decoders do not.

libsndfile reads a file that breaks off as if it were whole, and FFmpeg guesses the length of an
MP3 that does not count its frames.
"""

from __future__ import annotations

import math
import os
import struct
from typing import BinaryIO, NamedTuple

LIBSNDFILE_MAGIC = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff", b".snd", b"NIST", b"riff")
_MORE_MAGIC = (b"ID3", b"\x1aE\xdf\xa3", b"#!AMR", b"0&\xb2u", b"wvpk", b"MAC ", b"TTA1")

_PIPED_LENGTH = 0x7FFF0000  # a chunk length from here on was written to a pipe: not known
_OGG_PAGE_BYTES = 65_307  # at most
_NEVER = 1 << 64


class _Chunks(NamedTuple):
    """Where a format keeps its audio."""

    form: str  # of a chunk's header, name and length, for ``struct``
    name: bytes  # of the chunk with the audio
    start: int  # byte of the first chunk
    align: int = 2  # bytes to a multiple of which chunks are padded
    unknown: int = _NEVER  # a length from here on was not known when the header was written
    own: int = 0  # bytes of its own header that a chunk's length includes


_CHUNKS = {
    b"RIFF": _Chunks("<4sI", b"data", 12, unknown=_PIPED_LENGTH),
    b"RF64": _Chunks("<4sI", b"data", 12),
    b"FORM": _Chunks(">4sI", b"SSND", 12, unknown=_PIPED_LENGTH),
    b"caff": _Chunks(">4sQ", b"data", 8, align=1, unknown=1 << 63),
    b"riff": _Chunks("<4s12xQ", b"data", 40, align=8, own=24),  # Wave64
}


def declared_over_held(file: BinaryIO) -> float:
    """How many times more audio a file for libsndfile declares than it holds.

    Returns:
        1 for a whole file and where no length is declared, infinity for one that breaks off
        without telling how much is missing.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(1_024)
    magic = head[:4]
    if magic == b"OggS":
        return 1.0 if _ends_with_ogg_page(file, size) else math.inf
    start, length = 0, 0  # first byte of the audio and its length as the header declares it
    if magic in _CHUNKS:
        start, length = _chunk(file, size, _CHUNKS[magic])
        if magic == b"RF64" and length:  # 64 bits, which stand in a chunk of their own, the first
            length = int.from_bytes(head[28:36], "little") if head[12:16] == b"ds64" else 0
    elif magic == b".snd" and len(head) >= 12:
        known = struct.unpack(">II", head[4:12])
        start, length = known if known[1] < _PIPED_LENGTH else (0, 0)
    elif magic == b"NIST":
        start, length = _sphere(head)
    held = size - start
    if length <= held:
        return 1.0
    return length / held if held > 0 else math.inf


def _chunk(file: BinaryIO, end: int, chunks: _Chunks) -> tuple[int, int]:
    """Start and length of the chunk with the audio, the length 0 where it is not told."""
    position, size = chunks.start, struct.calcsize(chunks.form)
    for _ in range(1000):  # a real file has a few
        file.seek(min(position, end))
        header = file.read(size)
        if len(header) < size:
            break
        name, length = struct.unpack(chunks.form, header)
        length -= chunks.own
        position += size
        if name == chunks.name:
            return position, length if length < chunks.unknown else 0
        position += max(0, -(-length // chunks.align) * chunks.align)
    return 0, 0


def _sphere(head: bytes) -> tuple[int, int]:
    """The same of NIST's header, which is text: its size, then `name -type value` a line."""
    lines = head.decode("latin-1").split("\n")
    values = {line.split()[0]: line.split()[-1] for line in lines[2:] if len(line.split()) == 3}
    if "," in values.get("sample_coding", ""):  # compressed
        return 0, 0
    try:
        names = ("sample_count", "channel_count", "sample_n_bytes")
        return int(lines[1]), math.prod(int(values[name]) for name in names)
    except (IndexError, KeyError, ValueError):
        return 0, 0


def _ends_with_ogg_page(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - _OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]  # header of 27 bytes, segment table, segments
    segments = page[26] if len(page) >= 27 else 0
    return len(page) >= 27 + segments + sum(page[27 : 27 + segments])


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
