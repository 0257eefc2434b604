"""Several sources as one stream: the seed alone decides which is drawn from next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tiny_audio.audio.io import SAMPLE_RATE, load_audio
from tiny_audio.data.records import Cursor, Draw, IndexedSource, Record, Source, Utterance
from tiny_audio.errors import AudioError, DataError

_BLOCK = 4096  # choices from one seed, so that choice n is found without making those before it
_TAG = 77  # keeps these random numbers apart from others with the same seed
_PROBED = 200  # records, evenly spread, whose durations stand for a source's


@dataclass(frozen=True)
class Position:
    """Where a mixture stands: draws made by this rank, each source's cursor, and which ended."""

    drawn: int
    cursors: Sequence[Cursor]
    ended: Sequence[int] = ()  # indices of sources that take no more part


@dataclass(eq=False)
class Mixture:
    """Draws from each source with a probability proportional to its weight.

    Every rank makes the same choices, and each takes its own share of the chosen source. With
    `repeat` a source that ends begins again in another order; else its share goes to the others.
    """

    sources: Sequence[Source]
    weights: Sequence[float]
    seed: int
    rank: int
    world_size: int
    repeat: bool = True

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.min() < 0 or not weights.sum() > 0:
            raise DataError(f"data.train has weights {[*self.weights]}: use 0 or more, not all 0.")
        self._shares = weights / sum(self.weights)
        self.start = Position(0, (None,) * len(self.sources))

    def draws(self, start: Position) -> Iterator[Draw]:
        """The stream from a position on; without end, unless sources are not to repeat.

        Records know the pass on which they were drawn; cursors are positions.
        """
        streams = [
            source.draws(self.seed, self.rank, self.world_size, cursor)
            for source, cursor in zip(self.sources, start.cursors, strict=True)
        ]
        position = start
        for number in self._numbers(start.drawn):
            while True:
                chosen = self._choice(number, position.ended)
                if chosen is None:
                    return
                draw = next(streams[chosen])
                if self.repeat or draw.epoch == 0:
                    break
                position = replace(position, ended=(*position.ended, chosen))
            cursors = list(position.cursors)
            cursors[chosen] = draw.cursor
            position = Position(position.drawn + 1, tuple(cursors), position.ended)
            item = draw.item
            if isinstance(item, Record):
                item = replace(item, epoch=draw.epoch)
            yield Draw(item, draw.epoch, position)

    def lost_shards(self) -> list[Any]:
        """What each source had to leave out, for `restore`; JSON values."""
        return [source.lost_shards() for source in self.sources]

    def restore(self, lost_shards: Sequence[Any] | None) -> None:
        """Leave out what another mixture of the same sources left out; None: nothing."""
        nothing = [None] * len(self.sources)
        for source, lost in zip(self.sources, lost_shards or nothing, strict=True):
            source.restore(lost)

    def passes(self, position: Position) -> float:
        """How often every source has been gone through, at the least; endless ones do not count."""
        members = zip(self.sources, position.cursors, self._shares, strict=True)
        finite = ((s, cursor) for s, cursor, share in members if not s.endless and share > 0)
        return min((s.passes(cursor, self.world_size) for s, cursor in finite), default=0.0)

    def _choice(self, number: float, ended: Sequence[int]) -> int | None:
        """The source that a random number in [0, 1) falls to, None when all have ended."""
        shares = self._shares.copy()
        shares[list(ended)] = 0.0
        bounds = shares.cumsum()
        if not bounds[-1] > 0:
            return None
        return int(np.searchsorted(bounds / bounds[-1], number, side="right"))

    def _numbers(self, start: int) -> Iterator[float]:
        """Random numbers, one for each draw."""
        block, offset = divmod(start, _BLOCK)
        while True:
            numbers = np.random.default_rng([self.seed, _TAG, block]).random(_BLOCK)
            yield from numbers[offset:].tolist()
            block, offset = block + 1, 0


def mean_seconds(source: Source, declared: float | None) -> float:
    """Mean duration of a source's utterances, in seconds; `declared` is taken as it is.

    Raises DataError where neither it, nor manifests, nor local recordings tell.
    """
    if declared:
        return declared
    found: list[float] = []
    if isinstance(source, IndexedSource) and source.length is not None:
        places = np.linspace(0, source.length - 1, min(source.length, _PROBED)).astype(int)
        for record in (next(source.records(place)) for place in places.tolist()):
            if isinstance(record, Record) and record.seconds is not None:
                found.append(record.seconds)
            elif isinstance(record, Record) and isinstance(record.audio, Path):
                with suppress(AudioError):
                    found.append(len(load_audio(record.audio, offset=record.offset)) / SAMPLE_RATE)
    if not found:
        unknown = f"how long the utterances of {source.name!r} are is not known"
        setting = f"data.train.{source.name}.mean_seconds"
        raise DataError(f"data.weights=hours: {unknown}, set {setting}.")
    return max(sum(found) / len(found), 0.01)


@dataclass
class Usage:
    """Utterances and seconds of audio that each source gave to batches so far."""

    utterances: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, batch: Iterable[Utterance]) -> None:
        """Count a batch."""
        for utterance in batch:
            self.utterances[utterance.source] += 1
            self.seconds[utterance.source] += utterance.seconds

    def merge(self, other: Usage) -> None:
        """Add what another process counted."""
        self.utterances.update(other.utterances)
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds

    def row(self) -> dict[str, float]:
        """Figures by the names of metrics.jsonl: utterances_<source> and hours_<source>."""
        hours = {f"hours_{name}": seconds / 3600 for name, seconds in self.seconds.items()}
        return {f"utterances_{name}": n for name, n in self.utterances.items()} | hours

    def summary(self) -> list[str]:
        """A line for people where there are several sources: their shares, the largest first."""
        if len(self.utterances) < 2:
            return []
        utterances, seconds = self.utterances.total(), sum(self.seconds.values())
        shares = (
            f"{name} {self.utterances[name] / utterances:.1%} of the utterances, "
            f"{part / max(seconds, 1e-9):.1%} of {seconds / 3600:.2f} h"
            for name, part in sorted(self.seconds.items(), key=lambda item: -item[1])
        )
        return ["Used: " + "; ".join(shares)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"utterances": dict(self.utterances), "seconds": dict(self.seconds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Usage:
        """What `to_dict` wrote."""
        seconds = defaultdict(float, values.get("seconds", {}))
        return cls(Counter(values.get("utterances", {})), seconds)
