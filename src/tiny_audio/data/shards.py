"""Sources that are read in shards: streamed from the hub, from addresses, or from local files.

The order of the shards is shuffled anew on each pass. Within them the rows are read in blocks, and
each block is shuffled: unlike a rolling shuffle buffer, a block can be read again from where it
starts, so that a cursor is exact. A shard that cannot be read, or not to its end, is left out from
there on and comes out as one reject. Which ones that were is part of a run's state (`losses`): a
resumed run leaves out the same, even if the server is back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from threading import Event
from typing import Any

import numpy as np

from tiny_audio.data.failover import ShardReader, Shards
from tiny_audio.data.records import Cursor, Draw, Record, Source, id_hash, name_seed
from tiny_audio.data.rejects import Reject
from tiny_audio.data.remote import LOSSES, Patience
from tiny_audio.data.rows import row_item
from tiny_audio.errors import DataError

BLOCK = 1024  # rows that are shuffled together: about 100 MB of FLAC
_KEPT = 16  # passes whose losses are remembered: more than a pool and what is read ahead span
HELD_OUT_SHARE = 32  # one id in so many belongs to the held-out part

Item = Record | Reject


@dataclass(frozen=True)
class Place:
    """A cursor: where a block starts, and which record of it comes next."""

    epoch: int = 0
    shard: int = 0  # position in the order in which this rank goes through its shards
    row: int = 0
    seen: int = 0  # rows of the pass before the block
    offset: int = 0


class ShardSource(Source):
    """Records out of shards.

    Args:
        columns: role (audio, text, id, speaker) -> name of a column, None where there is none.
        size: rows altogether, None where that is not known.
        patience: tells whether a lost shard is left out or ends the run.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        shards: Shards,
        *,
        columns: Mapping[str, str | None],
        max_samples: int | None,
        size: int | None,
        patience: Patience,
    ) -> None:
        super().__init__(name, weight)
        self._shards, self._columns = ShardReader(name, shards, patience), columns
        self._names = shards.names
        self._limit = max_samples
        self._size = min((n for n in (size, max_samples) if n), default=None)
        self._held_out: bool | None = None  # None: all; else only the held-out part, or all but it
        self._count: int | None = None  # of the held-out part

    @property
    def length(self) -> int | None:
        return self._size if self._held_out is None else None

    def records(self, start: int = 0) -> Iterator[Item]:
        every = np.arange(len(self._names))
        self._shards.restore(())  # what was lost last time may be back
        walk = self._walk(Place(), every, (0, 1), Event())
        items = (item for item, _ in walk if item is not None and self._belongs(item))
        yield from islice(items, start, self._count)

    def sample(self, count: int) -> list[Item]:
        """The first ones; none of a held-out part, which would be read through for them."""
        apart = copy.copy(self)
        apart._shards = copy.copy(self._shards)  # what is lost now is not left out in training
        return [] if self._held_out else list(islice(apart.records(), count))

    def draws(self, seed: int, rank: int, world_size: int, cursor: Cursor) -> Iterator[Draw]:
        at = Place(**cursor) if cursor else Place()
        while True:
            drawn = lost = 0
            for block, here, after in self._blocks(at, seed, rank, world_size):
                tags = [seed, name_seed(self.name), here.epoch, here.shard, here.row]
                order = np.random.default_rng(tags).permutation(len(block))
                for offset in range(here.offset, len(block)):
                    item, is_row = block[order[offset]]
                    lost += not is_row
                    if self._belongs(item):
                        drawn += 1
                        last = offset + 1 == len(block)
                        following = after if last else replace(here, offset=offset + 1)
                        yield Draw(item, here.epoch, asdict(following))
            if drawn == lost == 0 and at == Place(at.epoch):
                raise DataError(
                    f"The data source {self.name!r} holds too few records for {world_size} "
                    "process(es): look at its path and split."
                )
            at = Place(at.epoch + 1)
            self._shards.forget(at.epoch - _KEPT)

    def lost_shards(self) -> Any:
        return self._shards.losses()

    def restore(self, lost_shards: Any) -> None:
        self._shards.restore(lost_shards or ())

    def passes(self, cursor: Cursor, world_size: int) -> float:
        at = Place(**cursor) if cursor else Place()
        apart = self._apart(world_size)
        if self._size:
            step = 1 if apart else world_size
            done = (at.seen + at.offset * step) / self._size * (world_size if apart else 1)
        else:  # shards are taken to be as long as those before them
            usual = (at.seen - at.row) / at.shard if at.shard else 0
            part = min((at.row + at.offset) / usual, 1) if usual else 0
            done = (at.shard + part) / len(self._names) * (world_size if apart else 1)
        return at.epoch + min(done, 1.0)

    def hold_out(self, count: int) -> tuple[Source, Source]:
        """Hold out one id in 32, by its hash; the held-out source yields the first `count`."""
        left, held = copy.copy(self), copy.copy(self)
        left._held_out, held._held_out = False, True
        held._shards = copy.copy(self._shards)
        held._shards.restore(())
        held._count = count
        return left, held

    def _belongs(self, item: Item) -> bool:
        if self._held_out is None:
            return True
        held = isinstance(item, Record) and id_hash(item.id) % HELD_OUT_SHARE == 0
        return held == self._held_out

    def _apart(self, world_size: int) -> bool:
        """Whether each rank has shards of its own; else all go through all, and share the rows."""
        return self._limit is None and len(self._names) >= world_size

    def _blocks(
        self, at: Place, seed: int, rank: int, world_size: int
    ) -> Iterator[tuple[list[tuple[Item, bool]], Place, Place]]:
        """Blocks of one pass from `at` on, each with its place and the place after it.

        Items come with whether they are a row; the others are lost shards. A thread reads the
        next block while the last one is used: the network is slow.
        """
        order = np.arange(len(self._names))
        share = (rank, world_size)
        if self._limit is None:
            rng = np.random.default_rng([seed, name_seed(self.name), at.epoch])
            order = rng.permutation(order)
        if self._apart(world_size):
            order, share = order[rank::world_size], (0, 1)
        stopped = Event()
        walk = self._walk(at, order, share, stopped)

        def read() -> tuple[list[tuple[Item, bool]], Place | None]:
            block: list[tuple[Item, bool]] = []
            after: Place | None = None
            for item, place in walk:
                after = place
                if item is not None:
                    lost = isinstance(item, Reject) and item.reason in LOSSES
                    block.append((item, not lost))
                if len(block) == BLOCK or stopped.is_set():
                    break
            return block, after

        with ThreadPoolExecutor(1, thread_name_prefix=f"read-{self.name}") as thread:
            try:
                coming = thread.submit(read)
                while True:
                    block, after = coming.result()
                    if after is None or not block:
                        return
                    coming = thread.submit(read)
                    yield block, at, after
                    at = after
            finally:
                stopped.set()

    def _walk(
        self, at: Place, order: Any, share: tuple[int, int], stopped: Event
    ) -> Iterator[tuple[Item | None, Place]]:
        """Each row or loss of a pass with the place after it; other ranks' rows are None."""
        mine, world_size = share
        seen = at.seen
        for position in range(at.shard, len(order)):
            row = at.row if position == at.shard else 0
            shard = int(order[position])
            for values in self._shards.rows(shard, at.epoch, row, stopped):
                if isinstance(values, Reject):
                    yield values, Place(at.epoch, position + 1, 0, seen)
                    continue
                if seen == self._limit:
                    return
                item = None
                if row % world_size == mine:
                    item = row_item(values, self._columns, self.name, self._names[shard])
                row, seen = row + 1, seen + 1
                yield item, Place(at.epoch, position, row, seen)
