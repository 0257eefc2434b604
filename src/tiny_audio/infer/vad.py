"""Where someone speaks, by silero-vad (extra `vad`), whose weights are in its wheel.

Shapes: S samples at 16 kHz, C chunks of 32 ms, L lanes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.segment import split_long
from tiny_audio.errors import MissingExtraError, missing_extra

_READ = 300 * SAMPLE_RATE  # of a long recording that is looked at together
CHUNK = 512  # what the network takes at once
_RISE, _ABOVE, _QUIET = 0.1, 12.0, -65.0  # dB: of loudness, see `Loudness`
_LANES, _WARM_UP = 32, 32  # stretches heard side by side, each from 32 chunks (1 s) before its own


@dataclass(frozen=True)
class VadOptions:
    """What counts as speech; names and defaults are those of faster-whisper."""

    threshold: float = 0.5  # probability of speech
    min_speech_duration_ms: int = 0
    min_silence_duration_ms: int = 2000  # shorter pauses do not end a stretch
    speech_pad_ms: int = 400  # kept before and after each


@cache
def _network() -> Any:
    threads = torch.get_num_threads()
    try:
        import silero_vad
    except ImportError:
        raise missing_extra("voice activity needs silero-vad", "vad") from None
    torch.set_num_threads(threads)  # its import sets one, for the whole process
    return silero_vad.load_silero_vad()


def live_detector() -> Callable[[np.ndarray], float]:
    """Hears one chunk [512] of a stream after the other and tells the probability of speech."""
    try:
        network = copy.deepcopy(_network())
    except MissingExtraError:
        return Loudness()
    network.reset_states()

    @torch.no_grad()
    def probability(chunk: np.ndarray) -> float:
        return float(network(torch.from_numpy(chunk), SAMPLE_RATE))

    return probability


class Loudness:
    """Speech by loudness alone: 12 dB above the quietest of late (or above -65 dB of full scale),
    which is forgotten by 3 dB a second."""

    def __init__(self) -> None:
        self.floor = _QUIET

    def __call__(self, chunk: np.ndarray) -> float:
        level = 10 * math.log10(float(np.square(chunk, dtype=np.float64).mean()) + 1e-12)
        self.floor = max(_QUIET, min(level, self.floor + _RISE))
        return float(level > self.floor + _ABOVE)


@torch.no_grad()
def speech_probabilities(waveform: np.ndarray) -> np.ndarray:
    """Probability [C] of speech in each chunk of a waveform [S].

    The network is recurrent; lanes make it fast: each hears a stretch of the waveform, after the
    second before it.
    """
    chunks = -(-len(waveform) // CHUNK)
    own = max(_WARM_UP, -(-chunks // _LANES))  # of a lane
    lanes = -(-chunks // own) or 1  # also of nothing
    padded = np.zeros((_WARM_UP + lanes * own) * CHUNK, np.float32)
    padded[_WARM_UP * CHUNK :][: len(waveform)] = waveform
    grid = torch.from_numpy(padded).view(-1, CHUNK)
    network = _network()
    network.reset_states()
    found = []
    for step in range(_WARM_UP + own):
        heard = network(grid[step::own][:lanes], SAMPLE_RATE)  # [L, 1]
        if step >= _WARM_UP:
            found.append(heard[:, 0])
    return torch.stack(found, dim=1).flatten()[:chunks].numpy()


def speech_spans(waveform: np.ndarray, options: VadOptions) -> list[tuple[int, int]]:
    """Stretches of a waveform [S] in which someone speaks: (first sample, end), in order.

    Raises:
        MissingExtraError: silero-vad is not installed.
    """
    _network()
    from silero_vad.utils_vad import get_speech_timestamps_from_probs

    spans = get_speech_timestamps_from_probs(
        speech_probabilities(waveform).tolist(),
        sampling_rate=SAMPLE_RATE,
        threshold=options.threshold,
        min_speech_duration_ms=options.min_speech_duration_ms,
        min_silence_duration_ms=options.min_silence_duration_ms,
        speech_pad_ms=options.speech_pad_ms,
        audio_length_samples=len(waveform),
    )
    return [(int(span["start"]), int(span["end"])) for span in spans]


def split_speech(
    blocks: Iterable[np.ndarray], max_seconds: float, min_seconds: float, options: VadOptions
) -> Iterator[tuple[int, np.ndarray]]:
    """Speech in blocks [S] that come one after the other: (first sample, stretch of at most
    ``max_seconds``), in order; last an empty one at the recording's end."""
    begun, waiting = 0, np.zeros(0, np.float32)
    held: list[np.ndarray] = []
    samples = 0
    for block in blocks:
        held.append(block)
        samples += len(block)
        if samples < _READ:
            continue
        waiting, held, samples = np.concatenate([waiting, *held]), [], 0
        cut = len(waiting)
        for start, end in speech_spans(waiting, options):
            if end == len(waiting) and end - start < _READ:  # it may go on
                cut = start
                break
            yield from _pieces(begun, waiting, start, end, max_seconds, min_seconds)
        begun, waiting = begun + cut, waiting[cut:]
    waiting = np.concatenate([waiting, *held])
    for start, end in speech_spans(waiting, options):
        yield from _pieces(begun, waiting, start, end, max_seconds, min_seconds)
    yield begun + len(waiting), waiting[:0]


def _pieces(
    begun: int, waveform: np.ndarray, start: int, end: int, max_seconds: float, min_seconds: float
) -> Iterator[tuple[int, np.ndarray]]:
    for first, stop in split_long(waveform[start:end], max_seconds, min_seconds):
        yield begun + start + first, waveform[start + first : start + stop]
