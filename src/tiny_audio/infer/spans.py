"""A recording as the spans that the model hears, read as they are needed: hours take no memory.

S samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tiny_audio.audio.io import SAMPLE_RATE, AudioInput, audio_blocks
from tiny_audio.audio.segment import split_long
from tiny_audio.errors import AudioError
from tiny_audio.infer.recognise import Recognition

_MARGIN = 0.2  # seconds after a cut that may decide where it lies: how loud it is around it
_WINDOWS = 10


@dataclass(frozen=True)
class Piece:
    """Where a span lies in its recording.

    start: in samples. last: no span of the recording comes after it. error: why the recording
    could not be read, or not to its end; then its span is empty.
    """

    start: int
    last: bool
    error: str | None = None


def read_pieces(
    source: AudioInput,
    rate: int | None,
    max_seconds: float,
    min_seconds: float,
    max_bytes: int | None = None,
) -> Iterator[tuple[Piece, np.ndarray]]:
    """The spans [S] of one recording, in order; always at least one, and one that is the last.

    Args:
        source: see ``load_audio``.
        rate: of an array.
        max_seconds, min_seconds: of a span, see ``split_long``.
        max_bytes: of an address or a pipe, see ``load_audio``.
    """
    start, held = 0, np.zeros(0, np.float32)
    try:
        blocks = audio_blocks(source, sample_rate=rate, max_bytes=max_bytes)
        for span in split_stream(blocks, max_seconds, min_seconds):
            if len(held):
                yield Piece(start, last=False), held
            start, held = start + len(held), span
    except AudioError as error:
        yield Piece(start, last=True, error=str(error)), np.zeros(0, np.float32)
    else:
        yield Piece(start, last=True), held


def split_stream(
    blocks: Iterable[np.ndarray], max_seconds: float, min_seconds: float, windows: int = _WINDOWS
) -> Iterator[np.ndarray]:
    """The spans of ``split_long``, cut from blocks [S] that come one after the other.

    `windows`: so many of the longest spans are waited for before the first is cut.
    """
    reach = int((max_seconds + min_seconds + _MARGIN) * SAMPLE_RATE)
    waiting: list[np.ndarray] = []
    samples = 0
    for block in blocks:
        waiting.append(block)
        samples += len(block)
        if samples < windows * reach:
            continue
        whole, cut = np.concatenate(waiting), 0
        for start, end in split_long(whole, max_seconds, min_seconds):
            if start + reach > samples:  # what is still to come may move this cut
                break
            yield whole[start:end]
            cut = end
        waiting, samples = [whole[cut:]], samples - cut
    whole = np.concatenate([np.zeros(0, np.float32), *waiting])
    for start, end in split_long(whole, max_seconds, min_seconds):
        yield whole[start:end]


def join_pieces(found: Sequence[tuple[Piece, Recognition]]) -> Recognition:
    """What was recognised in the spans of a recording, as one."""

    def later(seconds: float, samples: int) -> float:
        return (samples + round(seconds * SAMPLE_RATE)) / SAMPLE_RATE

    return Recognition(
        segments=[
            replace(s, start=later(s.start, piece.start), end=later(s.end, piece.start))
            for piece, part in found
            for s in part.segments
        ],
        seconds=later(found[-1][1].seconds, found[-1][0].start),
        work_seconds=sum(part.work_seconds for _, part in found),
    )
