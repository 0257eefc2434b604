"""A test set, read once in its own order, ahead of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from tiny_audio.data.prepare import Preparer, decode
from tiny_audio.data.records import Record, Source, Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.data.sources import open_set as open_set
from tiny_audio.errors import DataError
from tiny_audio.evaluate.snr import estimate_snr
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


def read_set(
    sources: Sequence[Source], *, limit: int | None, num_workers: int, ahead_seconds: float
) -> Iterator[Utterance | Reject]:
    """The utterances alone, see `read_samples`."""
    samples = read_samples(
        sources, limit=limit, num_workers=num_workers, ahead_seconds=ahead_seconds
    )
    return (sample.item for sample in samples)


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
        ((item, _place(item)) for item in islice(items, start, limit)),
        Preparer(
            LabelRules(allow_empty=True), min_seconds=0.0, max_seconds=math.inf, max_bytes=max_bytes
        ),
        num_workers,
    )
    samples = (_sample(item, *place) for item, place in decoded)
    first = list(islice(samples, 1))  # worker processes start here, not on the thread
    return prefetch(
        chain(first, samples), cost=lambda sample: _seconds(sample.item), budget=ahead_seconds
    )


def count(sources: Sequence[Source], limit: int | None) -> int | None:
    """Utterances that `read_samples` gives, None where it is not known beforehand."""
    lengths = [source.length for source in sources]
    if any(length is None for length in lengths):
        return None if not all(source.endless for source in sources) else limit
    total = sum(length for length in lengths if length is not None)
    return total if limit is None else min(total, limit)


def _place(item: Record | Reject) -> tuple[str | None, float | None]:
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
    whole = replace(item, text=str(item.extra.get("transcript", item.text)))
    return Sample(whole, audio, offset, estimate_snr(item.waveform))


def _seconds(result: Utterance | Reject) -> float:
    return result.seconds if isinstance(result, Utterance) else 0.0
