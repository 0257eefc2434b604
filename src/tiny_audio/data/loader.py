"""What the trainer reads: a stream of batches that can stop and go on at the same batch.

    sources -> mixture -> records -> workers: decode, clean -> pools -> batches

A pool is shuffled, sorted by length and cut into batches; while they are used the next one fills.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np

from tiny_audio.data.augment import Augmenter
from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.mixture import Mixture, MixtureDraw, Position, Usage
from tiny_audio.data.prepare import (
    Preparer,
    QualityLimits,
    Result,
    TokenLimits,
    decode,
    over_budget,
)
from tiny_audio.data.records import Item, Record, Source, Utterance, id_hash
from tiny_audio.data.rejects import Reject, RejectCounts, RejectLog
from tiny_audio.data.shards import LOST_REASONS
from tiny_audio.errors import DataError

if TYPE_CHECKING:
    from tiny_audio.model.batch import Batch
    from tiny_audio.text.labels import LabelRules
    from tiny_audio.text.prompt import Prompt

logger = logging.getLogger(__name__)

_TAG = 78  # keeps these random numbers apart from others with the same seed
# Reading is given up when so much in a row is rejected. Passes are more than two because the last
# good record of one may be the first, and that of the next the last.
_BARREN_PASSES, _BARREN_RECORDS = 3, 100_000


# ---------------------------------------------------------------------------------------- pools


@dataclass
class _Pool:
    """The next `size` usable utterances, or as many as there are before a source begins anew.

    So no recording is twice in a pool, and a small set is one pool on each pass.
    """

    size: int
    start: Position  # where it can be read again from
    rejects: RejectCounts  # those before it
    epochs: dict[int, int] = field(default_factory=dict)  # source -> the pass it is on
    utterances: list[Utterance] = field(default_factory=list)
    complete: bool = False


class _PoolReader:
    """Reads a mixture from a position on and fills one pool after the other.

    Args:
        rejects: counted here, each record on its source's first pass only, but a shard that is
            lost on every pass: it may be another one each time.
        budget: seconds that fit into a batch; longer utterances are rejected as over_budget.
    """

    def __init__(
        self,
        mixture: Mixture,
        start: Position,
        preparer: Preparer,
        limits: TokenLimits,
        *,
        rejects: RejectCounts,
        log: RejectLog,
        budget: float,
        num_workers: int,
    ) -> None:
        self._mixture, self._limits, self._budget = mixture, limits, budget
        self._rejects, self._log = rejects, log
        drawn = ((_with_epoch(draw), draw) for draw in mixture.draws(start))
        self._results = decode(drawn, preparer, num_workers)
        self._pending: tuple[Result, MixtureDraw] | None = None  # belongs to the next pool
        self._end = start  # after the last record that went into a pool
        self._fruitful = start  # after the last usable one
        self._barren = 0  # records since then

    def begin(self, size: int) -> _Pool:
        """An empty pool that begins where the last one ended, which must be complete."""
        return _Pool(size, self._end, self._rejects.copy())

    def fill(self, pool: _Pool, count: int) -> None:
        """Add up to `count` utterances; the pool is complete when it says so.

        Raises DataError when all the data is rejected.
        """
        wanted = min(len(pool.utterances) + count, pool.size)
        while len(pool.utterances) < wanted and not pool.complete:
            pair = self._pending or next(self._results, None)
            if pair is None:
                pool.complete = True
                return
            result, draw = pair
            if pool.epochs.setdefault(draw.source, draw.epoch) != draw.epoch:
                self._pending, pool.complete = pair, True
                return
            self._pending, self._end = None, draw.after
            self._add(pool, result, draw)
            pool.complete = len(pool.utterances) == pool.size

    def _add(self, pool: _Pool, result: Result, draw: MixtureDraw) -> None:
        reject = result if isinstance(result, Reject) else self._check(result)
        if draw.epoch == 0 or (reject is not None and reject.reason in LOST_REASONS):
            self._rejects.seen += 1
            if reject is not None:
                self._rejects.add(reject)
                self._log.add(reject)
        if reject is None and isinstance(result, Utterance):
            pool.utterances.append(result)
            self._fruitful, self._barren = draw.after, 0
            return
        self._barren += 1
        passed = self._mixture.passes(draw.after) - self._mixture.passes(self._fruitful)
        if passed >= _BARREN_PASSES or self._barren >= _BARREN_RECORDS:
            raise self._useless()

    def _check(self, utterance: Utterance) -> Reject | None:
        return over_budget(utterance, self._budget) or self._limits.check(utterance)

    def check_fruitful(self) -> None:
        """Raise DataError if all data was read and rejected."""
        if self._rejects.total == self._rejects.seen:
            raise self._useless()

    def _useless(self) -> DataError:
        return DataError(f"No sample of the training data can be used: {self._rejects.why()}.")


def _with_epoch(draw: MixtureDraw) -> Item:
    """The item as it goes to a worker, which is to know the pass it belongs to."""
    return replace(draw.item, epoch=draw.epoch) if isinstance(draw.item, Record) else draw.item


# --------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class _State:
    """Where a stream stands: `served` batches of pool number `pool`, which began at `start`."""

    start: Position
    rejects: RejectCounts
    pool: int = 0
    served: int = 0
    epoch: float = 0.0


class TrainingStream:
    """Batches for one rank, without end unless sources are not to repeat.

    Iterating goes on after the last batch that was yielded, also in another process that has
    loaded the `state_dict`: then the utterances of one pool are decoded again, no more. The order
    is a function of `seed` and the sources, not of `num_workers`. With several ranks, each has a
    share of the records that no other has, and a `state_dict` of its own.

    Args:
        weights: shares of the sources in the mixture.
        audio_tokens: samples -> audio tokens; called in this process only.
        batch_seconds: longest x count in a batch; a longer utterance is rejected (over_budget).
        pool: utterances that are shuffled and sorted by length together.
        quality: limits beside those of length.
        augment: how utterances are changed.
        log: where rejects are written down.
        repeat: sources begin again when they end; else batches end with the last source.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        *,
        prompt: Prompt,
        audio_tokens: Callable[[int], int],
        rules: LabelRules,
        batch_seconds: float,
        max_utterances: int,
        pool: int,
        min_seconds: float,
        max_seconds: float,
        max_label_tokens: int,
        num_workers: int,
        seed: int,
        rank: int,
        world_size: int,
        quality: QualityLimits | None = None,
        augment: Augmenter | None = None,
        log: RejectLog | None = None,
        repeat: bool = True,
    ) -> None:
        self._mixture = Mixture(
            sources, weights, seed=seed, rank=rank, world_size=world_size, repeat=repeat
        )
        self._preparer = Preparer(rules, min_seconds, max_seconds, quality, augment)
        self._log = log or RejectLog()
        self._limits = TokenLimits(prompt, audio_tokens, max_label_tokens)
        self._num_workers = num_workers
        self._data: dict[str, Any] = {
            "sources": [[source.name, source.length] for source in sources],
            "weights": list(weights),
            "seed": seed,
            "rank": rank,
            "world_size": world_size,
            **({} if repeat else {"repeat": False}),  # as in checkpoints from before the setting
        }
        self._batching: dict[str, Any] = {
            "pool": pool,
            "batch_seconds": batch_seconds,
            "max_utterances": max_utterances,
            "min_seconds": min_seconds,
            "max_seconds": max_seconds,
            "max_label_tokens": max_label_tokens,
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
            "start": self._state.start.to_dict(),
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
        if state["data"] != self._data:
            changed = ", ".join(
                f"{name} was {state['data'].get(name)}, is {value}"
                for name, value in self._data.items()
                if state["data"].get(name) != value
            )
            raise DataError(
                f"The run cannot go on where it stopped in its data: {changed}. Restore these, or "
                "start a new run from its weights with model.init_from."
            )
        served = state["served"]
        if state["batching"] != self._batching:
            logger.warning("Batches are cut otherwise now: a part of the last pool comes again.")
            served = 0
        rejects = RejectCounts.from_dict(state["rejects"])
        start = Position.from_dict(state["start"])
        self._state = _State(start, rejects, state["pool"], served, state["epoch"])
        self.rejects = rejects.copy()
        self._mixture.restore(state.get("lost_shards", state.get("losses")))  # former names
        self.usage = Usage.from_dict(state.get("usage", state.get("heard", {})))

    def __iter__(self) -> Iterator[Batch]:
        state = self._state
        self.rejects = state.rejects.copy()
        self._log.keep(state.rejects.total)
        reader = _PoolReader(
            self._mixture,
            state.start,
            self._preparer,
            self._limits,
            rejects=self.rejects,
            log=self._log,
            budget=self._batching["batch_seconds"],
            num_workers=self._num_workers,
        )
        size = self._batching["pool"]
        pool = reader.begin(size)
        reader.fill(pool, size)
        for number in count(state.pool):
            if not pool.utterances:  # all sources have ended
                reader.check_fruitful()
                return
            following = reader.begin(size)
            first, last = map(self._mixture.passes, (pool.start, following.start))
            batches = self._batches(pool.utterances, number)
            for served, batch in enumerate(batches, start=1):
                if number > state.pool or served > state.served:
                    epoch = first + (last - first) * served / len(batches)
                    self._state = _State(pool.start, pool.rejects, number, served, epoch)
                    self.usage.add(batch)
                    prompt, audio_tokens = self._limits.prompt, self._limits.audio_tokens
                    yield collate(batch, prompt, audio_tokens, with_labels=True)
                reader.fill(following, len(batch))  # bit by bit, while the model works
            reader.fill(following, size)
            pool = following

    def _batches(self, utterances: list[Utterance], number: int) -> list[list[Utterance]]:
        return length_batches(
            utterances,
            batch_seconds=self._batching["batch_seconds"],
            max_utterances=self._batching["max_utterances"],
            rng=np.random.default_rng([self._data["seed"], _TAG, self._data["rank"], number]),
        )


def eval_utterances(
    sources: Sequence[Source],
    *,
    prompt: Prompt,
    audio_tokens: Callable[[int], int],
    rules: LabelRules,
    min_seconds: float,
    max_seconds: float,
    max_label_tokens: int,
    num_workers: int,
    rejects: RejectCounts,
    rank: int = 0,
    world_size: int = 1,
) -> dict[int, Utterance]:
    """This rank's share of the utterances that the model can take, by record number, in memory.

    The shares of all ranks are disjoint and together the whole. Whose a record is depends on its
    id, so that utterances which are evenly spread over the set are spread over the ranks as well.
    What is rejected is added to `rejects`. Raises DataError for a source without end.
    """
    for source in sources:
        if source.endless:
            raise DataError(
                f"The data source {source.name!r} is endless: set max_samples to evaluate on it."
            )
    limits = TokenLimits(prompt, audio_tokens, max_label_tokens)
    records = enumerate(chain.from_iterable(source.records() for source in sources))
    mine = ((r, n) for n, r in records if id_hash(f"rank of {r.id}") % world_size == rank)
    usable: dict[int, Utterance] = {}
    for result, number in decode(mine, Preparer(rules, min_seconds, max_seconds), num_workers):
        rejects.seen += 1
        reject = result if isinstance(result, Reject) else limits.check(result)
        if reject is not None:
            rejects.add(reject)
        elif isinstance(result, Utterance):
            usable[number] = result
    return usable
