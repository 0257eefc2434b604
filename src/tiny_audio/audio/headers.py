"""What the first and last bytes of a recording tell that the decoders do not.

libsndfile reads a WAV, AIFF or Ogg file that breaks off as if it were whole, and FFmpeg guesses
the length of an MP3 that does not count its frames.
"""

from __future__ import annotations

import math
import struct
from typing import BinaryIO

LIBSNDFILE_MAGIC = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff", b".snd", b"NIST", b"riff")
_MORE_MAGIC = (b"ID3", b"\x1aE\xdf\xa3", b"#!AMR", b"0&\xb2u", b"wvpk", b"MAC ", b"TTA1")

_PIPED_LENGTH = 0x7FFF0000  # a chunk length from here on was written to a pipe: not known
_OGG_PAGE_BYTES = 65_307  # at most


def declared_over_held(file: BinaryIO) -> float:
    """How many times more audio a WAV, AIFF or Ogg file declares than it holds.

    Returns:
        1 for a whole file, infinity for one that breaks off without telling how much is missing.
    """
    size = file.seek(0, 2)
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        file.seek(max(0, size - _OGG_PAGE_BYTES))
        tail = file.read()
        page = tail[tail.rfind(b"OggS") :]  # header of 27 bytes, segment table, segments
        segments = page[26] if len(page) >= 27 else 0
        whole = 27 + segments + sum(page[27 : 27 + segments])
        return 1.0 if len(page) >= whole else math.inf
    if magic not in (b"RIFF", b"FORM"):
        return 1.0
    order, wanted = ("<", b"data") if magic == b"RIFF" else (">", b"SSND")
    position = 12
    for _ in range(1000):  # chunks; a real file has a few
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, length = struct.unpack(f"{order}4sI", header)
        position += 8
        if name == wanted:
            there = size - position
            if length <= there or length >= _PIPED_LENGTH:
                break
            return float(length / there) if there else math.inf
        position += length + length % 2
    return 1.0


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
