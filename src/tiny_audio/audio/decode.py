"""Encoded audio to mono blocks, by libsndfile where it is quick and by FFmpeg for the rest.

Nothing is allocated by what a header claims. S samples, C channels.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
import soxr
from av.container import InputContainer
from numpy.typing import NDArray

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.remote import PipeCopy

Mono = NDArray[np.float32]

_BLOCK_VALUES = 1 << 20  # of all channels together, decoded at a time: 4 MiB
_BATCH_SAMPLES = 1 << 15  # FFmpeg's frames are tiny; joined to blocks of at least this
_LIVE_BYTES = 1 << 12  # of a pipe, waited for at a time

_LIBSNDFILE = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff", b".snd", b"NIST", b"riff")
_MORE_AUDIO = (b"ID3", b"\x1aE\xdf\xa3", b"#!AMR", b"0&\xb2u", b"wvpk", b"MAC ", b"TTA1")
# libsndfile's log of a header that declares more bytes than there are.
_LACKING = re.compile(r"(data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)")
_PIPED_LENGTH = 0x7FFF0000  # a 32-bit length from here on was written to a pipe: not known
_OGG_PAGE_BYTES = 65_307  # at most
# Form of a chunk's header, byte of the first, and the length from which on it is not known.
_CHUNKS = {b"RIFF": ("<4sI", 12, _PIPED_LENGTH), b"caff": (">4sQ", 8, 1 << 63)}

# Containers that count their audio. Elsewhere FFmpeg guesses the duration from the bit rate.
_EXACT_FORMATS = {"flac", "wav", "aiff", "caf"}
_COUNTED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_EXACT = 0.01  # seconds
_PADDING_SAMPLES = 4096  # that AAC and MP3 encoders add at both ends; not all containers say so
_BEFORE, _AFTER = 1.0, 0.25  # seconds decoded around a stretch, so that codec and resampler settle


class UndecodableError(Exception):
    """This decoder cannot read these bytes; another one may. `finding` follows the file's name."""

    def __init__(self, reason: str, finding: str) -> None:
        super().__init__(reason, finding)
        self.reason, self.finding = reason, finding


@dataclass
class Decoding:
    """An opened recording; all durations in seconds."""

    rate: int  # Hz
    declared: float | None  # by the header, less the pauses that a call left out, as they turn up
    slack: float  # by which a whole recording of this kind may fall short of its header
    blocks: Iterator[Mono] = field(default_factory=lambda: iter(()))  # [S], decoded when asked for
    damage: float = 0.0  # could not be decoded so far; infinite for a recording that breaks off


def to_mono(samples: NDArray[Any], channel_axis: int) -> Mono:
    """Average the channels of [C, S] or [S, C] samples; integers are scaled to [-1, 1]."""
    kind, full = samples.dtype.kind, 2.0 ** (8 * samples.dtype.itemsize - 1)
    channels = np.moveaxis(samples, channel_axis, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported later
        mono: Mono = channels[0].astype(np.float32)
        for channel in channels[1:]:  # 20 times as fast as a mean over the short axis of [S, 2]
            mono += channel
        mono /= len(channels)
        if kind == "u":
            mono -= full
        if kind in "iu":
            mono /= full
    return mono


class _Seekable:
    """A file without a name, so that decoders look at the bytes and not at the suffix.

    Seeks before the start, which damaged headers cause, fail without an error on stderr.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._seek = file.seek
        self.read, self.tell = file.read, file.tell
        self.seekable = lambda: not isinstance(file, PipeCopy)  # or FFmpeg looks at its end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


@contextmanager
def libsndfile(file: BinaryIO) -> Iterator[Decoding]:
    """Open WAV, FLAC, Ogg, AIFF, CAF, AU or Sphere; libsndfile's MP3 reader writes to stderr.

    Raises UndecodableError, on opening or while the blocks are read.
    """
    head = file.read(1_024)
    if not head.startswith(_LIBSNDFILE) or isinstance(file, PipeCopy):
        raise UndecodableError("not_audio", "is no format of libsndfile")
    broken = head.startswith(b"OggS") and _breaks_off(file)
    file.seek(0)
    try:
        sound = soundfile.SoundFile(_Seekable(file))
    except soundfile.LibsndfileError as error:
        raise UndecodableError("unreadable", "is not readable by libsndfile") from error
    with sound:
        if sound.frames >= 2**62:  # a FLAC stream of unknown length, which libsndfile cannot read
            raise UndecodableError("unreadable", "has no length")
        decoding = Decoding(sound.samplerate, None, _EXACT, _libsndfile_blocks(sound))
        cut = math.inf if broken else _declared_over_held(sound, head)
        if math.isinf(cut):
            decoding.damage = cut
        else:
            decoding.declared = sound.frames / sound.samplerate * cut
        yield decoding


def _declared_over_held(sound: soundfile.SoundFile, head: bytes) -> float:
    """How many times more audio a header declares than there is, which libsndfile takes for all."""
    declared, held = 0, 0
    if head.startswith(b"NIST") and (count := re.search(rb"sample_count -i (\d+)", head)):
        declared, held = int(count[1]), sound.frames
    elif found := _LACKING.search(sound.extra_info):
        declared, held = int(found[2]), int(found[3])
        if declared >= _PIPED_LENGTH and found[1].lower()[:4] != "riff":
            declared = 0
    if declared <= held:
        return 1.0
    return declared / held if held else math.inf


def _breaks_off(file: BinaryIO) -> bool:
    """Whether a WAV, CAF or Ogg file ends before its audio does, which FFmpeg does not tell."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        file.seek(max(0, size - _OGG_PAGE_BYTES))
        tail = file.read()
        page = tail[tail.rfind(b"OggS") :]  # header of 27 bytes, segment table, segments
        segments = page[26] if len(page) >= 27 else 0
        return len(page) < 27 + segments + sum(page[27 : 27 + segments])
    if magic not in _CHUNKS:
        return False
    form, position, unknown = _CHUNKS[magic]
    for _ in range(1000):  # a real file has a few
        file.seek(min(position, size))
        header = file.read(struct.calcsize(form))
        if len(header) < struct.calcsize(form):
            break
        name, length = struct.unpack(form, header)
        position += len(header)
        if name == b"data":
            return bool(length < unknown and position + length > size)
        position += length + (length % 2 if magic == b"RIFF" else 0)
    return False


def _libsndfile_blocks(sound: soundfile.SoundFile) -> Iterator[Mono]:
    frames = max(1, _BLOCK_VALUES // sound.channels)
    try:
        while len(block := sound.read(frames, dtype="float32", always_2d=True)):  # [S, C]
            yield to_mono(block, channel_axis=1)
    except soundfile.LibsndfileError as error:
        raise UndecodableError("truncated", "is damaged") from error


@contextmanager
def ffmpeg(file: BinaryIO) -> Iterator[Decoding]:
    """Open any container with an audio track that FFmpeg knows.

    Raises UndecodableError, on opening or while the blocks are read.
    """
    known = _looks_like_audio(file.read(12))
    damaged = UndecodableError("truncated", "breaks off before any audio, or is damaged")
    foreign = UndecodableError("not_audio", "is not in an audio or video format known here")
    live = isinstance(file, PipeCopy)
    counts_frames = not live and _has_mp3_count(file)
    file.seek(0)
    try:
        container = av.open(
            _Seekable(file),
            mode="r",
            # A playlist must not make FFmpeg open other files or addresses.
            options={"protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=_LIVE_BYTES if live else 1 << 15,
        )
    except (av.FFmpegError, ValueError) as error:
        raise (damaged if known else foreign) from error
    with container:
        if not container.streams and known:
            raise damaged
        if not container.streams.audio:
            raise UndecodableError("not_audio", "has no audio track")
        stream = container.streams.audio[0]
        # PyAV gives NumPy no frames of 64-bit integers.
        if stream.codec_context is None or stream.codec_context.name.startswith("pcm_s64"):
            raise UndecodableError("unreadable", "is in a codec that FFmpeg cannot decode")
        decoding = Decoding(stream.rate or 0, None, _EXACT)
        if counts_frames or container.format.name in _COUNTED_FORMATS | _EXACT_FORMATS:
            if stream.duration is not None and stream.time_base is not None:
                decoding.declared = float(stream.duration * stream.time_base)
            elif container.duration is not None and len(container.streams) == 1:
                decoding.declared = container.duration / av.time_base
        frames = _ffmpeg_frames(file, container, stream, decoding)
        first = next(frames, None)
        if first is not None:
            decoding.rate = first.sample_rate  # HE-AAC declares half the rate it decodes to
            decoding.blocks = _ffmpeg_blocks(chain([first], frames), first.sample_rate)
        if not decoding.rate:
            raise UndecodableError("truncated", "holds no audio that can be decoded")
        if container.format.name not in _EXACT_FORMATS:
            decoding.slack = _PADDING_SAMPLES / decoding.rate
        yield decoding


def _looks_like_audio(head: bytes) -> bool:
    """Tell a sound or video file that is damaged from a file of another kind."""
    if head.startswith(b"RIFF"):
        return head[8:12] in (b"WAVE", b"AVI ", b"")
    mp3 = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFF
    return mp3 or head[4:8] == b"ftyp" or head.startswith(_LIBSNDFILE + _MORE_AUDIO)


def _has_mp3_count(file: BinaryIO) -> bool:
    """Whether the first MP3 frame counts the frames of the file (Xing, LAME and VBRI headers)."""
    file.seek(0)
    head = file.read(10)
    if head.startswith(b"ID3") and len(head) == 10:
        a, b, c, d = head[6:10]  # 7 bits in each byte
        file.seek(10 + (a << 21 | b << 14 | c << 7 | d))
        head = file.read(4)
    frame = head + file.read(200)
    return frame[0:1] == b"\xff" and any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def _ffmpeg_frames(
    file: BinaryIO, container: InputContainer, stream: av.AudioStream, decoding: Decoding
) -> Iterator[av.AudioFrame]:
    """Decode packet by packet; what is missing or will not decode is counted as damage."""
    may_pause = container.format.name in _COUNTED_FORMATS
    end = 0.0  # of the last frame, on the container's clock
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                seconds = float((packet.duration or 0) * (packet.time_base or 0))
                decoding.damage += seconds or 0.02  # the usual length of a packet
                continue
            for frame in frames:
                if may_pause and frame.time is not None:
                    if decoding.declared is not None:
                        decoding.declared -= max(0.0, frame.time - end)
                    end = frame.time + frame.samples / frame.sample_rate
                yield frame
    except (av.FFmpegError, IndexError):  # IndexError: a track that begins in mid-file
        decoding.damage = math.inf
        return
    # FFmpeg takes what is there for all.
    if _breaks_off(file.copy if isinstance(file, PipeCopy) else file):
        decoding.damage = math.inf


def _ffmpeg_blocks(frames: Iterator[av.AudioFrame], rate: int) -> Iterator[Mono]:
    batch: list[Mono] = []
    for frame in frames:
        if (new := frame.sample_rate) != rate:
            raise UndecodableError("unreadable", f"changes its rate from {rate} to {new}")
        values = frame.to_ndarray()  # [C, S] planar, [1, S * C] packed
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        batch.append(to_mono(values, channel_axis=0))
        if sum(map(len, batch)) >= _BATCH_SAMPLES:
            yield np.concatenate(batch)
            batch = []
    if batch:
        yield np.concatenate(batch)


def read_stretch(file: BinaryIO, start: int, stop: int) -> Mono | None:
    """Samples `start` to `stop` at 16 kHz of a file that libsndfile can seek in: [S]; else None.

    The same as decoding the whole gives: it begins earlier, at a whole sample of 16 kHz.
    """
    if file.read(4) not in _LIBSNDFILE:
        return None
    file.seek(0)
    try:
        with soundfile.SoundFile(_Seekable(file)) as sound:
            rate = sound.samplerate
            first = max(0, int(start / SAMPLE_RATE * rate - _BEFORE * rate))
            first -= first % (rate // math.gcd(rate, SAMPLE_RATE))
            last = math.ceil(stop / SAMPLE_RATE * rate + _AFTER * rate)
            if first >= sound.frames or sound.frames >= 2**62:
                return None
            sound.seek(first)
            samples = to_mono(sound.read(last - first, dtype="float32", always_2d=True), 1)
    except (soundfile.LibsndfileError, ValueError, OverflowError):
        return None
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    skipped = start - first * SAMPLE_RATE // rate
    stretch = samples[skipped : skipped + stop - start].copy()  # or the margins stay in memory
    return stretch if len(stretch) == stop - start and np.isfinite(stretch).all() else None
