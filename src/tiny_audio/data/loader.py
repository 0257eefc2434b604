"""What the trainer reads: a stream of batches that can stop and go on at the same batch.

    sources -> mixture -> records -> workers: decode, clean -> pools -> batches

A pool is sorted by length and cut into batches; while they are used the next one fills.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np

from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.mixture import Mixture, Position, Usage
from tiny_audio.data.prepare import Preparer, TokenLimits, decode
from tiny_audio.data.records import Reject, RejectCounts, RejectLog, Source, Utterance, stable_hash
from tiny_audio.data.shards import LOST_REASONS
from tiny_audio.errors import DataError

if TYPE_CHECKING:
    from tiny_audio.model.batch import Batch

logger = logging.getLogger(__name__)

_TAG = 78  # keeps these random numbers apart from others with the same seed
# Reading is given up when so much in a row is rejected. Passes are more than two because the last
# good record of one may be the first, and that of the next the last.
_BARREN_PASSES, _BARREN_RECORDS = 3, 100_000


@dataclass
class _Pool:
    """Usable utterances: as many as are sorted together, or those until a source begins anew."""

    start: Position  # where it can be read again from
    rejects: RejectCounts  # those before it
    end: Position  # after the last record that was read for it
    epochs: dict[str, int] = field(default_factory=dict)  # source -> the pass it is on
    utterances: list[Utterance] = field(default_factory=list)


@dataclass(frozen=True)
class _State:
    """Where a stream stands: `served` batches of pool number `pool`, which began at `start`."""

    start: Position
    rejects: RejectCounts
    pool: int = 0
    served: int = 0
    epoch: float = 0.0


@dataclass(eq=False)
class TrainingStream:
    """Batches for one rank, without end unless sources are not to repeat.

    Iterating goes on after the last batch that was yielded, also in another process that has
    loaded the `state_dict`. The order is a function of `seed` and the sources, not of
    `num_workers`. Each rank has its own share of the records and its own `state_dict`.
    """

    sources: Sequence[Source]
    weights: Sequence[float]  # shares of the sources in the mixture
    preparer: Preparer
    limits: TokenLimits  # checked in this process
    batch_seconds: float  # longest x count in a batch; what is longer alone is rejected
    max_utterances: int
    pool: int  # utterances that are shuffled and sorted by length together
    num_workers: int
    seed: int
    rank: int
    world_size: int
    log: RejectLog = field(default_factory=RejectLog)
    repeat: bool = True  # sources begin again when they end

    def __post_init__(self) -> None:
        share = (self.seed, self.rank, self.world_size)
        self._mixture = Mixture(self.sources, self.weights, *share, self.repeat)
        self._data: dict[str, Any] = {
            "sources": [[source.name, source.length] for source in self.sources],
            "weights": list(self.weights),
            **{name: getattr(self, name) for name in ("seed", "rank", "world_size")},
            **({} if self.repeat else {"repeat": False}),  # as in checkpoints before the setting
        }
        quality, augment = self.preparer.quality, self.preparer.augment
        self._batching: dict[str, Any] = {
            **{name: getattr(self, name) for name in ("pool", "batch_seconds", "max_utterances")},
            "min_seconds": self.preparer.min_seconds,
            "max_seconds": self.preparer.max_seconds,
            "max_label_tokens": self.limits.max_label_tokens,
            "quality": None if quality is None else asdict(quality),
            "augment": None if augment is None else augment.settings,
        }
        self._state = _State(self._mixture.start, RejectCounts())
        self.rejects = RejectCounts()  # each record once, on its first pass
        self.usage = Usage()  # what was in the batches so far

    @property
    def epoch(self) -> float:
        """How often the batches so far have gone through every source, at the least."""
        return self._state.epoch

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on after the last batch that was yielded; JSON values."""
        return {
            "pool": self._state.pool,
            "served": self._state.served,
            "epoch": self._state.epoch,
            "start": asdict(self._state.start),
            "rejects": self._state.rejects.to_dict(),
            "lost_shards": self._mixture.lost_shards(),
            "usage": self.usage.to_dict(),
            "data": self._data,
            "batching": self._batching,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another stream stood.

        Raises DataError if that one read other data. If it cut batches otherwise, the pool that
        it was in is cut anew from its beginning, with a warning.
        """
        before, now = state["data"], self._data
        if changed := [n for n in before | now if before.get(n) != now.get(n)]:
            how = ", ".join(f"{n} was {before.get(n)}, is {now.get(n)}" for n in changed)
            what = f"The run cannot go on where it stopped in its data: {how}"
            raise DataError(f"{what}. Restore these, or start anew with model.init_from.")
        served = state["served"]
        if state["batching"] != self._batching:
            logger.warning("Batches are cut otherwise now: a part of the last pool comes again.")
            served = 0
        rejects = RejectCounts.from_dict(state["rejects"])
        start = Position(**state["start"])
        self._state = _State(start, rejects, state["pool"], served, state["epoch"])
        self.rejects = deepcopy(rejects)
        self._mixture.restore(state.get("lost_shards", state.get("losses")))  # former names
        self.usage = Usage.from_dict(state.get("usage", state.get("heard", {})))

    def __iter__(self) -> Iterator[Batch]:
        state = self._state
        self.rejects = deepcopy(state.rejects)
        self.log.keep(state.rejects.total)
        prompt, pools = self.limits.prompt, self._pools()
        pool = next(filter(None, pools))
        for number in count(state.pool):
            if not pool.utterances:  # all sources have ended
                if self.rejects.total == self.rejects.seen:
                    raise self._useless()
                return
            first, last = map(self._mixture.passes, (pool.start, pool.end))
            batches = length_batches(
                pool.utterances,
                batch_seconds=self.batch_seconds,
                max_utterances=self.max_utterances,
                rng=np.random.default_rng([self.seed, _TAG, self.rank, number]),
            )
            following: _Pool | None = None
            for served, batch in enumerate(batches, start=1):
                if number > state.pool or served > state.served:
                    epoch = first + (last - first) * served / len(batches)
                    self._state = _State(pool.start, pool.rejects, number, served, epoch)
                    self.usage.add(batch)
                    yield collate(batch, prompt, self.limits.audio_tokens, with_labels=True)
                for _ in batch:  # while the model works
                    following = following or next(pools)
            pool = following or next(filter(None, pools))

    def _pools(self) -> Iterator[_Pool | None]:
        """Pools from where the stream stands, and None for each utterance while one fills.

        Records are counted in `rejects` on their source's first pass only, but a shard that is
        lost on every pass: it may be another one each time.
        """
        start, longest = self._state.start, self.batch_seconds
        pool = _Pool(start, deepcopy(self.rejects), end=start)
        fruitful, barren = start, 0  # position after the last usable record, and records since
        drawn = ((draw.item, draw) for draw in self._mixture.draws(start))
        for result, draw in decode(drawn, self.preparer, self.num_workers):
            name = draw.item.source
            if pool.epochs.setdefault(name, draw.epoch) != draw.epoch:
                yield pool
                pool = _Pool(pool.end, deepcopy(self.rejects), pool.end, {name: draw.epoch})
            pool.end = draw.cursor
            reject = result if isinstance(result, Reject) else self.limits.check(result, longest)
            if draw.epoch == 0 or (reject is not None and reject.reason in LOST_REASONS):
                self.rejects.seen += 1
                if reject is not None:
                    self.rejects.add(reject)
                    self.log.add(reject)
            if isinstance(result, Utterance) and reject is None:
                fruitful, barren = draw.cursor, 0
                pool.utterances.append(result)
                full = len(pool.utterances) == self.pool
                yield pool if full else None
                if full:
                    pool = _Pool(pool.end, deepcopy(self.rejects), pool.end)
                continue
            barren += 1
            passed = self._mixture.passes(draw.cursor) - self._mixture.passes(fruitful)
            if passed >= _BARREN_PASSES or barren >= _BARREN_RECORDS:
                raise self._useless()
        while True:  # what follows the last pool is an empty one
            yield pool
            pool = _Pool(pool.end, deepcopy(self.rejects), pool.end)

    def _useless(self) -> DataError:
        return DataError(f"No sample of the training data can be used: {self.rejects.why()}.")


def eval_utterances(
    sources: Sequence[Source],
    *,
    preparer: Preparer,
    limits: TokenLimits,
    num_workers: int,
    rejects: RejectCounts,
    rank: int = 0,
    world_size: int = 1,
) -> dict[int, Utterance]:
    """This rank's share of the utterances that the model can take, by record number, in memory.

    Whose a record is depends on its id, so that the shares are disjoint, and each is spread over
    the set. What is rejected is added to `rejects`. Raises DataError for a source without end.
    """
    for source in sources:
        if source.endless:
            what = f"The data source {source.name!r} is endless"
            raise DataError(f"{what}: set max_samples to evaluate on it.")
    records = enumerate(chain.from_iterable(source.records() for source in sources))
    mine = ((r, n) for n, r in records if stable_hash(f"rank of {r.id}") % world_size == rank)
    usable: dict[int, Utterance] = {}
    for result, number in decode(mine, preparer, num_workers):
        rejects.seen += 1
        reject = result if isinstance(result, Reject) else limits.check(result)
        if reject is not None:
            rejects.add(reject)
        elif isinstance(result, Utterance):
            usable[number] = result
    return usable
