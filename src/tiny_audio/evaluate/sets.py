"""A test set, read once in its own order by a background thread, in chunks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from tiny_audio.data import records as data
from tiny_audio.data.prepare import Preparer, decode
from tiny_audio.data.records import Source, Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import DataError
from tiny_audio.evaluate.results import Record, parse_record
from tiny_audio.infer.prefetch import prefetch
from tiny_audio.text.labels import LabelRules

T = TypeVar("T")

Sample = tuple[Utterance | Reject, dict[str, Any]]  # with `audio`, `offset` of its Record


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

    The text is the transcript as the source has it, and may be empty; no length is refused.
    Audio is read on a background thread, which keeps about `ahead_seconds` ready, and decoded in
    `num_workers` processes (0: on that thread). The first `start` utterances are passed over;
    `limit` counts them too. Raises DataError for a source without end, unless there is a limit.
    """
    for source in sources:
        if source.endless and limit is None:
            raise DataError(f"The data source {source.name!r} is endless: set a limit.")
    items = chain.from_iterable(source.records() for source in sources)
    preparer = Preparer(
        LabelRules(allow_empty=True), min_seconds=0.0, max_seconds=math.inf, max_bytes=max_bytes
    )
    located = ((item, _location(item)) for item in islice(items, start, limit))
    decoded = decode(located, preparer, num_workers)
    first = list(islice(decoded, 1))  # worker processes start here, not on the thread
    samples = prefetch(
        chain(first, decoded),
        cost=lambda sample: getattr(sample[0], "seconds", 0.0),
        budget=ahead_seconds,
    )
    for item, where in samples:
        if isinstance(item, Utterance):  # with the transcript as the source has it
            item = replace(item, text=str(item.extra.get("transcript", item.text)))
        yield item, where


def count(sources: Sequence[Source], limit: int | None) -> int | None:
    """Utterances that `read_samples` gives, None where it is not known beforehand."""
    lengths = [limit if source.endless else source.length for source in sources]
    known = [length for length in lengths if length is not None]
    return min(sum(known), limit or sys.maxsize) if len(known) == len(lengths) else None


def _location(item: data.Item) -> dict[str, Any]:
    """Where the audio lies, as far as it can be found again."""
    if isinstance(item, Reject):
        return {}
    where: Any = getattr(item.audio, "path", item.audio)
    if isinstance(where, Path):
        where = str(where.absolute())
    return {"audio": where if isinstance(where, str) else None, "offset": item.offset}


def chunks(
    items: Iterable[T], seconds: float, length: Callable[[T], float]
) -> Iterator[Iterator[T]]:
    """Consecutive items, cut after the one with which they reach so many seconds of audio.

    What shares a batch depends on the chunk alone, so whole chunks need not be made again. Each
    must be used up before the next is asked for.
    """
    rest = iter(items)

    def chunk(first: T) -> Iterator[T]:
        done = 0.0
        for item in chain((first,), rest):
            yield item
            done += length(item)
            if done >= seconds:
                return

    return (chunk(first) for first in rest)


def whole_chunks(path: Path, seconds: float, complete: bool) -> list[Record]:
    """The records of a results file that need not be made again; the rest is cut off the file.

    seconds: of audio in a chunk. complete: the evaluation came to its end, every line counts.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    records: list[Record] = []
    for line in lines:
        record = parse_record(line) if line.endswith(b"\n") else None
        if record is None:
            break
        records.append(record)
    if records and not complete:  # the sets before the last were read to their end
        last = (records[-1].model, records[-1].set)
        part = [record for record in records if (record.model, record.set) == last]
        *_, chunk = map(list, chunks(part, seconds, attrgetter("duration")))
        if sum(record.duration for record in chunk) < seconds:
            del records[-len(chunk) :]
    with path.open("rb+") as file:
        file.truncate(sum(map(len, lines[: len(records)])))
    return records
