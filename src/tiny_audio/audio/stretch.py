"""A stretch of a long recording without decoding what comes before it.

The decoder begins a little earlier than the stretch, at a place that is a whole sample at 16 kHz
too, so that codec and resampler have settled when the stretch begins: it is what decoding the
whole would give, to the sample.

S samples, C channels.
"""

from __future__ import annotations

import math
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr

from tiny_audio.audio import SAMPLE_RATE, headers
from tiny_audio.audio.decode import Mono, Seekable, frame_to_mono, to_mono

_BEFORE = 1.0  # seconds decoded before a stretch: MP3 may need a quarter of one
_AFTER = 0.25  # and after it, for the resampler

# Containers whose time stamps are exact to the sample; Matroska's are to the millisecond.
_EXACT_TIMES = {"mp3", "aac", "mov,mp4,m4a,3gp,3g2,mj2"}


def read_stretch(file: BinaryIO, start: int, stop: int) -> Mono | None:
    """Samples `start` to `stop`, counted at 16 kHz, of a recording that can seek: [stop - start].

    None where it cannot be had in this way, for whatever reason: decode the whole then.
    """
    file.seek(0)
    known = file.read(4) in headers.LIBSNDFILE_MAGIC
    file.seek(0)
    try:
        found = _libsndfile(file, start, stop) if known else _ffmpeg(file, start, stop)
    except (soundfile.LibsndfileError, av.FFmpegError, ValueError, IndexError, OverflowError):
        return None
    if found is None:
        return None
    samples, rate, first = found
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    skipped = start - first * SAMPLE_RATE // rate
    stretch = samples[skipped : skipped + stop - start].copy()  # or the margins stay in memory
    return stretch if len(stretch) == stop - start and np.isfinite(stretch).all() else None


def _span(start: int, stop: int, rate: int) -> tuple[int, int]:
    """First and last frame at `rate` to decode; the first falls on a sample at 16 kHz."""
    step = rate // math.gcd(rate, SAMPLE_RATE)
    first = max(0, int(start / SAMPLE_RATE * rate - _BEFORE * rate))
    return first - first % step, math.ceil(stop / SAMPLE_RATE * rate + _AFTER * rate)


def _libsndfile(file: BinaryIO, start: int, stop: int) -> tuple[Mono, int, int] | None:
    """Mono samples [S], their rate and the number of the first, of WAV, FLAC, Ogg and the like."""
    with soundfile.SoundFile(Seekable(file)) as sound:
        first, last = _span(start, stop, sound.samplerate)
        if first >= sound.frames or sound.frames >= 2**62:
            return None
        sound.seek(first)
        samples = sound.read(last - first, dtype="float32", always_2d=True)  # [S, C]
        return to_mono(samples, channel_axis=1), sound.samplerate, first


def _ffmpeg(file: BinaryIO, start: int, stop: int) -> tuple[Mono, int, int] | None:
    """The same of what FFmpeg can seek in exactly."""
    options = {"protocol_whitelist": "none"}
    with av.open(Seekable(file), mode="r", options=options, metadata_errors="replace") as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None or container.format.name not in _EXACT_TIMES or not stream.time_base:
            return None
        rate, base = stream.rate or 0, stream.time_base
        began = stream.start_time or 0
        first, last = _span(start, stop, rate)
        if first <= _BEFORE * rate:
            return None  # so near the beginning that there is nothing to gain
        container.seek(int(first / rate / base) + began, stream=stream, backward=True)
        frames = container.decode(stream)
        head = next(frames, None)
        if head is None or head.pts is None or head.sample_rate != rate:
            return None
        place = round((head.pts - began) * base * rate)
        if place > first:
            return None
        pieces, count = [frame_to_mono(head)], head.samples
        for frame in frames:
            if place + count >= last:
                break
            pieces.append(frame_to_mono(frame))
            count += frame.samples
        return np.concatenate(pieces)[first - place :], rate, first
