"""A test set, read once in its own order by a background thread, in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiny_audio.data.prepare import Preparer, decode
from tiny_audio.data.records import Record, Source, Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import DataError
from tiny_audio.infer.prefetch import prefetch
from tiny_audio.text.labels import LabelRules


@dataclass(frozen=True)
class Sample:
    """One utterance of a test set, or why there is none, and where its audio lies.

    audio: path or URL, None for audio without one of its own; offset: seconds into it. snr:
    estimated signal-to-noise ratio, dB.
    """

    item: Utterance | Reject
    audio: str | None = None
    offset: float | None = None
    snr: float | None = None

    @property
    def seconds(self) -> float:
        """Of audio; 0 where there is none."""
        return self.item.seconds if isinstance(self.item, Utterance) else 0.0


def read_samples(
    sources: Sequence[Source],
    *,
    limit: int | None,
    num_workers: int,
    ahead_seconds: float,
    start: int = 0,
    max_bytes: int | None = None,
) -> Iterator[Sample]:
    """Every utterance once, in a fixed order, those that cannot be used as rejects.

    The text is the transcript as the source has it, and may be empty: what of it counts is the
    scoring rule's business. Stretches that their corpus marks as not transcribed are rejected. No
    length is refused. Audio is read on a background thread, which keeps about `ahead_seconds`
    ready, and decoded in `num_workers` processes (0: on that thread). The first `start` utterances
    are passed over; `limit` counts them too. `max_bytes`: of a recording at an address, see
    `load_audio`.

    Raises DataError for a source without end, unless there is a limit.
    """
    for source in sources:
        if source.endless and limit is None:
            raise DataError(f"The data source {source.name!r} is endless: set a limit.")
    items = chain.from_iterable(source.records() for source in sources)
    decoded = decode(
        ((item, _location(item)) for item in islice(items, start, limit)),
        Preparer(
            LabelRules(allow_empty=True), min_seconds=0.0, max_seconds=math.inf, max_bytes=max_bytes
        ),
        num_workers,
    )
    samples = (_sample(item, *location) for item, location in decoded)
    first = list(islice(samples, 1))  # worker processes start here, not on the thread
    return prefetch(chain(first, samples), cost=lambda sample: sample.seconds, budget=ahead_seconds)


def count(sources: Sequence[Source], limit: int | None) -> int | None:
    """Utterances that `read_samples` gives, None where it is not known beforehand."""
    lengths = [source.length for source in sources]
    if any(length is None for length in lengths):
        return None if not all(source.endless for source in sources) else limit
    total = sum(length for length in lengths if length is not None)
    return total if limit is None else min(total, limit)


def chunks(samples: Iterable[Sample], seconds: float) -> Iterator[Iterator[Sample]]:
    """Consecutive samples, cut after the one with which they reach so many seconds of audio.

    What shares a batch with what depends on the chunk alone: the chunks that a results file holds
    whole need not be made again. Each must be used up before the next is asked for.
    """
    rest = iter(samples)
    for first in rest:
        yield _chunk(chain((first,), rest), seconds)


def _chunk(samples: Iterator[Sample], seconds: float) -> Iterator[Sample]:
    done = 0.0
    for sample in samples:
        done += sample.seconds
        yield sample
        if done >= seconds:
            return


def _location(item: Record | Reject) -> tuple[str | None, float | None]:
    """Where the audio lies, as far as it can be found again."""
    if isinstance(item, Reject):
        return None, None
    if isinstance(item.audio, Path):
        return str(item.audio.absolute()), item.offset
    where = item.audio if isinstance(item.audio, str) else getattr(item.audio, "path", None)
    return (where if isinstance(where, str) else None), item.offset


def _sample(item: Utterance | Reject, audio: str | None, offset: float | None) -> Sample:
    if isinstance(item, Reject):
        return Sample(item, audio, offset)
    raw = replace(item, text=str(item.extra.get("transcript", item.text)))
    return Sample(raw, audio, offset, estimate_snr(item.waveform))


# log(mean |x|) - mean(log |x|) of speech in noise, by dB of signal over noise: simulated with 15
# million samples each.
_DECIBELS = (-10, -5, 0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60)
_PEAKEDNESS = (
    0.4121, 0.4238, 0.4620, 0.5435, 0.6676, 0.8120, 0.9558, 1.0847, 1.1946, 1.2839, 1.3572, 1.4158,
    1.4626, 1.5294,
)  # fmt: skip
_LEAST_SAMPLES = 400  # that are not exactly zero; of fewer nothing is said


def estimate_snr(waveform: NDArray[np.float32]) -> float | None:
    """Decibels of signal over noise in a waveform [S], from -10 to 60; None for silence.

    WADA-SNR (Kim and Stern, Interspeech 2008): amplitudes of clean speech follow a Gamma
    distribution of shape 0.4, those of noise a normal one, and how peaked a mixture is tells how
    much there is of each. Good to a few dB over a sentence or more; music and hum, which are not
    normal, mislead it. Samples that are exactly zero were put there by software and are left out.
    """
    loud = np.abs(waveform[waveform != 0], dtype=np.float64)
    if len(loud) < _LEAST_SAMPLES:
        return None
    peakedness = np.log(loud.mean()) - np.log(loud).mean()
    return round(float(np.interp(peakedness, _PEAKEDNESS, _DECIBELS)), 1)
