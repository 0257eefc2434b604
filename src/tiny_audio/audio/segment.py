"""Cutting a long recording into pieces that the encoder takes, between words where it can be."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.errors import ConfigError

_FRAME = SAMPLE_RATE // 100  # 10 ms, the step at which loudness is measured
_SMOOTH = 20  # frames: 200 ms, so that a pause wins over the closure of a single stop consonant


def split_long(
    waveform: NDArray[np.float32], max_seconds: float, min_seconds: float
) -> list[tuple[int, int]]:
    """Cut a waveform [S] at 16 kHz into spans of bounded length, at its quietest points.

    Each cut lies where the short-time energy over 200 ms is least, in the second half of the
    longest piece where the bounds leave room; the latest of equally quiet points.

    Returns (start, stop) in samples, without gap or overlap from 0 to S; no span for no samples.
    """
    longest, shortest = int(max_seconds * SAMPLE_RATE), math.ceil(min_seconds * SAMPLE_RATE)
    if not 0 <= 2 * shortest <= longest or longest < 1:
        what = f"cannot cut audio into pieces of {min_seconds:g} to {max_seconds:g} s"
        raise ConfigError(f"{what}: the shortest may be half of the longest at most")
    total, loudness, edges = len(waveform), _loudness(waveform), [0]
    while total - edges[-1] > longest:
        # No later than so that the rest is not too short, no earlier than the second half.
        last = min(edges[-1] + longest, total - shortest)
        first = min(edges[-1] + max(shortest, longest // 2), last)
        edges.append(_quietest(loudness, first, last))
    return list(pairwise([*edges, total])) if total else []


def _loudness(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Energy in the 200 ms around each boundary between frames of 10 ms, [S // 160 + 1]."""
    whole = waveform[: len(waveform) // _FRAME * _FRAME].reshape(-1, _FRAME)
    energy = np.einsum("fs,fs->f", whole, whole).astype(np.float64)
    padded = np.pad(energy, _SMOOTH // 2)
    around: NDArray[np.float64] = sliding_window_view(padded, _SMOOTH).sum(axis=1)
    return around


def _quietest(loudness: NDArray[np.float64], first: int, last: int) -> int:
    """The frame boundary of least loudness within [first, last], in samples."""
    low, high = -(-first // _FRAME), min(last // _FRAME, len(loudness) - 1)
    if low > high:
        return last
    latest = np.argmin(loudness[low : high + 1][::-1])  # of several equal ones, the last
    return int(high - latest) * _FRAME
