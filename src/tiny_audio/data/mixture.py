"""Several sources as one stream: which one is drawn from next depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tiny_audio.data.records import Cursor, Source
from tiny_audio.data.utterance import Record, Reject
from tiny_audio.errors import DataError

_BLOCK = 4096  # choices from one seed, so that choice n is found without making those before it
_TAG = 77  # keeps these random numbers apart from others with the same seed


@dataclass(frozen=True)
class Position:
    """Where a mixture stands: draws made by this rank, each source's cursor, and which ended."""

    drawn: int
    cursors: tuple[Cursor, ...]
    ended: tuple[int, ...] = ()  # indices of sources that take no more part

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"drawn": self.drawn, "cursors": list(self.cursors), "ended": list(self.ended)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Position:
        """The position that `to_dict` wrote."""
        return cls(values["drawn"], tuple(values["cursors"]), tuple(values.get("ended", ())))


@dataclass(frozen=True)
class MixtureDraw:
    """One record, the index and pass of its source, and the positions around it."""

    item: Record | Reject
    source: int
    epoch: int
    before: Position
    after: Position


class Mixture:
    """Draws from each source with a probability proportional to its weight.

    Every rank makes the same choices, and each takes its own share of the chosen source: together
    the ranks see what one process would.

    Args:
        repeat: a source that ends begins again in another order; else it takes no more part, its
            share goes to the others, and the stream ends with the last of them.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        *,
        seed: int,
        rank: int,
        world_size: int,
        repeat: bool = True,
    ) -> None:
        if not sources or len(sources) != len(weights):
            raise ValueError(f"{len(sources)} sources and {len(weights)} weights")
        if min(weights) < 0 or not sum(weights) > 0:
            raise DataError(
                f"The weights of the data sources are {', '.join(map(str, weights))}: none may be "
                "negative, and one must be more than 0."
            )
        self._sources = list(sources)
        self._shares = np.asarray(weights, dtype=np.float64) / sum(weights)
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._repeat = repeat

    @property
    def start(self) -> Position:
        """The beginning."""
        return Position(0, (None,) * len(self._sources))

    def draws(self, start: Position) -> Iterator[MixtureDraw]:
        """The stream from a position on; without end, unless sources are not to repeat."""
        streams = [
            source.draws(self._seed, self._rank, self._world_size, cursor)
            for source, cursor in zip(self._sources, start.cursors, strict=True)
        ]
        position = start
        for number in self._numbers(start.drawn):
            while True:
                chosen = self._choice(number, position.ended)
                if chosen is None:
                    return
                draw = next(streams[chosen])
                if self._repeat or draw.epoch == 0:
                    break
                position = replace(position, ended=(*position.ended, chosen))
            cursors = list(position.cursors)
            cursors[chosen] = draw.cursor
            before = position
            position = Position(before.drawn + 1, tuple(cursors), before.ended)
            yield MixtureDraw(draw.item, chosen, draw.epoch, before, position)

    def lost_shards(self) -> list[Any]:
        """What each source had to leave out, for `restore`; JSON values."""
        return [source.lost_shards() for source in self._sources]

    def restore(self, lost_shards: Sequence[Any] | None) -> None:
        """Leave out what another mixture of the same sources left out; None: nothing."""
        for source, lost in zip(
            self._sources, lost_shards or [()] * len(self._sources), strict=True
        ):
            source.restore(lost)

    def passes(self, position: Position) -> float:
        """How often every source has been gone through, at the least; endless ones do not count."""
        finite = [
            source.passes(cursor, self._world_size)
            for source, cursor, share in zip(
                self._sources, position.cursors, self._shares, strict=True
            )
            if not source.endless and share > 0
        ]
        return min(finite, default=0.0)

    def _choice(self, number: float, ended: tuple[int, ...]) -> int | None:
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
            numbers = np.random.default_rng([self._seed, _TAG, block]).random(_BLOCK)
            yield from numbers[offset:].tolist()
            block, offset = block + 1, 0
