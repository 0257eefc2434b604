"""Encoded audio to mono blocks, by libsndfile where it is quick and by FFmpeg for the rest.

Both decoders hand over a ``Decoding``: the sample rate, the duration that the header declares and
an iterator over blocks. Nothing is allocated by what a header claims, so that one that lies costs
no memory.

S samples, C channels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
from av.container import InputContainer
from numpy.typing import NDArray

from tiny_audio.audio import headers
from tiny_audio.audio.fetch import PipeCopy

Mono = NDArray[np.float32]

_BLOCK_VALUES = 1 << 20  # of all channels together, decoded at a time: 4 MiB
_BATCH_SAMPLES = 1 << 15  # FFmpeg's frames are tiny; joined to blocks of at least this

# Containers that count their audio. Elsewhere FFmpeg guesses the duration from the bit rate.
_EXACT_FORMATS = {"flac", "wav", "aiff", "caf"}
_COUNTED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}

_LIVE_BYTES = 1 << 12  # of a pipe, waited for at a time
_NO_ARRAY = ("pcm_s64le", "pcm_s64be")  # NumPy gets no frames of 64-bit integers from PyAV
_EXACT = 0.01  # seconds
_PADDING_SAMPLES = 4096  # that AAC and MP3 encoders add at both ends; not all containers say so


class UndecodableError(Exception):
    """This decoder cannot read these bytes; another one may.

    Args:
        reason: as in ``AudioError``.
        finding: what is wrong, in words that follow the file's name.
    """

    def __init__(self, reason: str, finding: str) -> None:
        super().__init__(reason, finding)
        self.reason, self.finding = reason, finding


@dataclass
class Decoding:
    """An opened recording.

    Attributes:
        rate: samples a second.
        declared: seconds by the header, None where none counts them. Less the pauses that a call
            or a browser left out of a recording, as they turn up.
        slack: seconds by which a whole recording of this kind may fall short of its header.
        blocks: mono float32 blocks [S], decoded as they are asked for.
        damage: seconds that could not be decoded, infinite for a recording that breaks off;
            complete once the blocks are spent.
    """

    rate: int
    declared: float | None
    slack: float
    blocks: Iterator[Mono] = field(default_factory=lambda: iter(()))
    damage: float = 0.0


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


def frame_to_mono(frame: av.AudioFrame) -> Mono:
    """Average the channels of one frame of FFmpeg."""
    values = frame.to_ndarray()  # [C, S] planar, [1, S * C] packed
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    return to_mono(values, channel_axis=0)


class Seekable:
    """A file as the decoders should see it.

    Nameless, so that they look at the bytes and not at the suffix, and calm about the seeks before
    the start that a damaged header makes libsndfile try: Python's error would go to stderr.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._seek = file.seek
        self.read, self.tell = file.read, file.tell
        self.seekable = lambda: not isinstance(file, PipeCopy) or file.must_seek()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


@contextmanager
def libsndfile(file: BinaryIO) -> Iterator[Decoding]:
    """Open what libsndfile reads well: WAV, FLAC, Ogg, AIFF, CAF, AU, Sphere.

    MP3 is left to FFmpeg, because libsndfile's reader of it writes warnings to stderr.

    Raises:
        UndecodableError: on opening, or while the blocks are read.
    """
    if file.read(4) not in headers.LIBSNDFILE_MAGIC or isinstance(file, PipeCopy):
        raise UndecodableError("not_audio", "is no format of libsndfile")
    cut = headers.declared_over_held(file)
    file.seek(0)
    try:
        sound = soundfile.SoundFile(Seekable(file))
    except soundfile.LibsndfileError as error:
        raise UndecodableError("unreadable", "is not readable by libsndfile") from error
    with sound:
        if sound.frames >= 2**62:  # a FLAC stream of unknown length, which libsndfile cannot read
            raise UndecodableError("unreadable", "has no length")
        decoding = Decoding(sound.samplerate, None, _EXACT, _libsndfile_blocks(sound))
        if math.isinf(cut):
            decoding.damage = cut
        else:  # libsndfile counts what is there, not declared
            decoding.declared = sound.frames / sound.samplerate * cut
        yield decoding


def _libsndfile_blocks(sound: soundfile.SoundFile) -> Iterator[Mono]:
    frames = max(1, _BLOCK_VALUES // sound.channels)
    while True:
        try:
            block = sound.read(frames, dtype="float32", always_2d=True)  # [S, C]
        except soundfile.LibsndfileError as error:
            raise UndecodableError("truncated", "is damaged") from error
        if not len(block):
            return
        yield to_mono(block, channel_axis=1)


@contextmanager
def ffmpeg(file: BinaryIO) -> Iterator[Decoding]:
    """Open any container with an audio track that FFmpeg knows.

    Raises:
        UndecodableError: on opening, or while the blocks are read.
    """
    known = headers.looks_like_audio(file.read(12))
    damaged = UndecodableError("truncated", "breaks off before any audio, or is damaged")
    foreign = UndecodableError("not_audio", "is not in an audio or video format known here")
    counts_frames = headers.has_mp3_count(file)
    file.seek(0)
    try:
        container = av.open(
            Seekable(file),
            mode="r",
            # A playlist must not make FFmpeg open other files or addresses.
            options={"protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=_LIVE_BYTES if isinstance(file, PipeCopy) else 1 << 15,
        )
    except (av.FFmpegError, ValueError) as error:
        raise (damaged if known else foreign) from error
    with container:
        if not container.streams and known:
            raise damaged
        if not container.streams.audio:
            raise UndecodableError("not_audio", "has no audio track")
        stream = container.streams.audio[0]
        if stream.codec_context is None or stream.codec_context.name in _NO_ARRAY:
            raise UndecodableError("unreadable", "is in a codec that FFmpeg cannot decode")
        decoding = Decoding(stream.rate or 0, None, _EXACT)
        if counts_frames or container.format.name in _COUNTED_FORMATS | _EXACT_FORMATS:
            decoding.declared = _declared(container, stream)
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


def _declared(container: InputContainer, stream: av.AudioStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:  # else it may be the video's
        return float(container.duration / av.time_base)
    return None


def _ffmpeg_frames(
    file: BinaryIO, container: InputContainer, stream: av.AudioStream, decoding: Decoding
) -> Iterator[av.AudioFrame]:
    """Decode packet by packet; what is missing or will not decode is counted as damage."""
    packets = container.demux(stream)
    may_pause = container.format.name in _COUNTED_FORMATS
    end = 0.0  # of the last frame, on the container's clock
    while True:
        try:
            packet = next(packets)
        except StopIteration:  # FFmpeg believes what is there
            ended = not isinstance(file, PipeCopy) or file.ended
            if ended and headers.declared_over_held(file) > 1 + _EXACT:
                decoding.damage = math.inf
            return
        except (av.FFmpegError, IndexError):  # IndexError: a track that begins in mid-file
            decoding.damage = math.inf
            return
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


def _ffmpeg_blocks(frames: Iterator[av.AudioFrame], rate: int) -> Iterator[Mono]:
    batch: list[Mono] = []
    for frame in frames:
        if frame.sample_rate != rate:
            raise UndecodableError(
                "unreadable", f"changes its rate from {rate} to {frame.sample_rate}"
            )
        batch.append(frame_to_mono(frame))
        if sum(map(len, batch)) >= _BATCH_SAMPLES:
            yield np.concatenate(batch)
            batch = []
    if batch:
        yield np.concatenate(batch)
