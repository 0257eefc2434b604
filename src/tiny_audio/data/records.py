"""What every source of data is: records in a fixed order, and endless training draws from them.

A source is read in two ways. `records` goes through it once, in its own order: evaluation.
`draws` is endless, shuffled anew on each pass, and tells after each record the cursor from which
another process could go on: training. Cursors are JSON values, and a draw is a function of the
seed, the rank and the cursor alone.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tiny_audio.data.utterance import Record, Reject
from tiny_audio.errors import DataError

Cursor = Any  # a JSON value that only its source understands; None is the beginning


@dataclass(frozen=True)
class Draw:
    """One record of an endless stream."""

    item: Record | Reject
    epoch: int  # how often the source was passed through before
    cursor: Cursor  # where the next draw is


class Source(ABC):
    """One set of recordings with transcripts; `length` is None where it is unknown or endless."""

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Records in one pass."""

    @property
    def endless(self) -> bool:
        """Whether one pass never ends."""
        return False

    @property
    def indexed(self) -> bool:
        """Whether any record can be read without those before it."""
        return False

    @abstractmethod
    def records(self, start: int = 0) -> Iterator[Record | Reject]:
        """One pass in the source's own order, from record `start` on."""

    def sample(self, count: int) -> list[Record | Reject]:
        """At most `count` records to look at, which leaves training's draws as they are."""
        return list(islice(self.records(), count))

    @abstractmethod
    def draws(self, seed: int, rank: int, world_size: int, cursor: Cursor) -> Iterator[Draw]:
        """This rank's share of an endless stream, each pass in another order.

        The shares of all ranks are disjoint and together are what one process would draw.
        """

    @abstractmethod
    def passes(self, cursor: Cursor, world_size: int) -> float:
        """How often the ranks together have been through the source when one is at `cursor`."""

    @abstractmethod
    def hold_out(self, count: int) -> tuple[Source, Source]:
        """The source without some records, and those: about `count`, chosen by id alone."""

    def lost_shards(self) -> Any:
        """What draws had to leave out so far, for `restore`; a JSON value, None: nothing."""
        return None

    def restore(self, lost_shards: Any) -> None:  # noqa: B027 - most sources lose nothing
        """Leave out what another source of the same data left out, so that draws are the same."""


class IndexedSource(Source):
    """A source whose records can be read one by one: subclasses give `size` and `read`.

    Args:
        max_samples: use only the first so many.
    """

    def __init__(self, name: str, weight: float, max_samples: int | None) -> None:
        super().__init__(name, weight)
        self._max_samples = max_samples
        self._kept: npt.NDArray[np.int64] | None = None  # indices that a hold-out left here

    @abstractmethod
    def size(self) -> int | None:
        """Records there are; None is endless."""

    @abstractmethod
    def read(self, index: int) -> Record | Reject:
        """Record number `index`, cheaply: nothing is decoded."""

    @property
    def length(self) -> int | None:
        if self._kept is not None:
            return len(self._kept)
        size = self.size()
        if size is None or self._max_samples is None:
            return self._max_samples if size is None else size
        return min(size, self._max_samples)

    @property
    def endless(self) -> bool:
        return self.length is None

    @property
    def indexed(self) -> bool:
        return True

    def _item(self, position: int) -> Record | Reject:
        return self.read(position if self._kept is None else int(self._kept[position]))

    def records(self, start: int = 0) -> Iterator[Record | Reject]:
        position = start
        while self.length is None or position < self.length:
            yield self._item(position)
            position += 1

    def sample(self, count: int) -> list[Record | Reject]:
        """Always the same ones, from all over the set; the first of an endless one."""
        length = count if self.length is None else self.length
        chosen = np.random.default_rng(0).choice(length, min(count, length), replace=False)
        return [self._item(position) for position in sorted(chosen.tolist())]

    def draws(self, seed: int, rank: int, world_size: int, cursor: Cursor) -> Iterator[Draw]:
        drawn = int(cursor or 0)  # by this rank; rank r owns the positions r, r + world_size, ...
        length = self.length
        if length == 0:
            raise DataError(f"The data source {self.name!r} holds no records: look at its path.")
        order: npt.NDArray[np.int64] | None = None
        order_epoch = -1
        while True:
            position, epoch = drawn * world_size + rank, 0
            if length is not None:
                epoch, position = divmod(position, length)
                if epoch != order_epoch:
                    rng = np.random.default_rng([seed, name_seed(self.name), epoch])
                    order, order_epoch = rng.permutation(length), epoch
                assert order is not None
                position = int(order[position])
            drawn += 1
            yield Draw(self._item(position), epoch, drawn)

    def passes(self, cursor: Cursor, world_size: int) -> float:
        return int(cursor or 0) * world_size / self.length if self.length else 0.0

    def hold_out(self, count: int) -> tuple[Source, Source]:
        """Hold out the records with the smallest hash of their id, at most a tenth of all."""
        length = self.length
        if length is None:
            raise DataError(
                f"The data source {self.name!r} is endless, nothing can be held out of it: "
                "set max_samples, or give evaluation data."
            )
        count = min(count, max(1, length // 10)) if length > 1 else 0
        items = ((position, self._item(position)) for position in range(length))
        ranked = sorted((id_hash(item.id), p) for p, item in items if isinstance(item, Record))
        held = np.array(sorted(position for _, position in ranked[:count]), dtype=np.int64)
        left = np.setdiff1d(np.arange(length, dtype=np.int64), held)
        return self._only(left), self._only(held)

    def _only(self, positions: npt.NDArray[np.int64]) -> Self:
        part = copy.copy(self)
        part._kept = positions if self._kept is None else self._kept[positions]
        return part


def id_hash(record_id: str) -> int:
    """A number in [0, 2**64) that depends on the id alone, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(record_id.encode(), digest_size=8).digest(), "big")


def name_seed(name: str) -> int:
    """Keeps two sources with the same seed from shuffling alike."""
    return id_hash(name) % 2**32


def text_of(value: object) -> str | None:
    """A transcript as text: numbers are written out as they stand, None and the rest are none."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None
