"""A test set, read once in its own order by a background thread, in chunks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from tiny_audio.config import DataConfig
from tiny_audio.data import records as data
from tiny_audio.data.prepare import Preparer, decode
from tiny_audio.data.records import Reject, Source, Utterance
from tiny_audio.errors import DataError
from tiny_audio.evaluate.models import Options
from tiny_audio.evaluate.results import Record, parse_record
from tiny_audio.infer.prefetch import prefetch
from tiny_audio.model.build import pick_device
from tiny_audio.text.labels import LabelRules

T = TypeVar("T")

Sample = tuple[Utterance | Reject, dict[str, Any]]  # with `audio`, `offset` of its Record


def read_samples(sources: Sequence[Source], options: Options, start: int = 0) -> Iterator[Sample]:
    """Every utterance once, in a fixed order, those that cannot be used as rejects.

    The text is the transcript as the source has it, and may be empty; no length is refused.
    Audio is read on a background thread, which keeps about a batch ready, and where a GPU works,
    decoded in processes. The first `start` utterances are passed over; `limit` counts them too.
    Raises DataError for a source without end, unless there is a limit.
    """
    for source in sources:
        if source.endless and options.limit is None:
            raise DataError(f"The data source {source.name!r} is endless: set a limit.")
    items = chain.from_iterable(source.records() for source in sources)
    located = ((item, _location(item)) for item in islice(items, start, options.limit))
    rules, most = LabelRules(allow_empty=True), options.max_bytes
    preparer = Preparer(rules, min_seconds=0.0, max_seconds=math.inf, max_bytes=most)
    workers = 0 if pick_device(options.device).type == "cpu" else DataConfig().num_workers
    decoded = decode(located, preparer, workers)
    first = list(islice(decoded, 1))  # worker processes start here, not on the thread
    samples = prefetch(
        chain(first, decoded),
        cost=lambda sample: getattr(sample[0], "seconds", 0.0),
        budget=options.batch_seconds,
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
    path = str(where.absolute()) if isinstance(where, Path) else where
    return {"audio": path if isinstance(path, str) else None, "offset": item.offset}


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
    parsed = (parse_record(line) if line.endswith(b"\n") else None for line in lines)
    records = [record for record in takewhile(bool, parsed) if record]
    if records and not complete:  # the sets before the last were read to their end
        last = (records[-1].model, records[-1].set)
        part = [record for record in records if (record.model, record.set) == last]
        *_, chunk = map(list, chunks(part, seconds, attrgetter("duration")))
        if sum(record.duration for record in chunk) < seconds:
            del records[-len(chunk) :]
    with path.open("rb+") as file:
        file.truncate(sum(map(len, lines[: len(records)])))
    return records
