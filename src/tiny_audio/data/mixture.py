"""Several sources as one endless stream: which one is drawn from next depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiny_audio.data.records import Cursor, Source
from tiny_audio.data.utterance import Record, Reject
from tiny_audio.errors import DataError

_BLOCK = 4096  # choices from one seed, so that choice n is found without making those before it
_TAG = 77  # keeps these random numbers apart from others with the same seed


@dataclass(frozen=True)
class Position:
    """Where a mixture stands: draws made by this rank, and each source's cursor."""

    drawn: int
    cursors: tuple[Cursor, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"drawn": self.drawn, "cursors": list(self.cursors)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Position:
        """The position that `to_dict` wrote."""
        return cls(values["drawn"], tuple(values["cursors"]))


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
    the ranks see what one process would. A source that ends begins again in another order.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        *,
        seed: int,
        rank: int,
        world_size: int,
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

    @property
    def start(self) -> Position:
        """The beginning."""
        return Position(0, (None,) * len(self._sources))

    def draws(self, start: Position) -> Iterator[MixtureDraw]:
        """The endless stream from a position on."""
        streams = [
            source.draws(self._seed, self._rank, self._world_size, cursor)
            for source, cursor in zip(self._sources, start.cursors, strict=True)
        ]
        position = start
        for chosen in self._choices(start.drawn):
            draw = next(streams[chosen])
            cursors = list(position.cursors)
            cursors[chosen] = draw.cursor
            before, position = position, Position(position.drawn + 1, tuple(cursors))
            yield MixtureDraw(draw.item, chosen, draw.epoch, before, position)

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

    def _choices(self, start: int) -> Iterator[int]:
        block, offset = divmod(start, _BLOCK)
        while True:
            rng = np.random.default_rng([self._seed, _TAG, block])
            chosen = rng.choice(len(self._shares), size=_BLOCK, p=self._shares)
            yield from chosen[offset:].tolist()
            block, offset = block + 1, 0
