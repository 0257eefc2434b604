"""Pools: the usable utterances that are shuffled, sorted and cut into batches together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tiny_audio.data.decode import Item, Result, decode
from tiny_audio.data.mixture import Mixture, MixtureDraw, Position
from tiny_audio.data.prepare import Preparer, TokenLimits
from tiny_audio.data.reject_log import RejectLog
from tiny_audio.data.shards import LOST_REASONS
from tiny_audio.data.utterance import Record, Reject, RejectCounts, Utterance
from tiny_audio.errors import DataError

# Reading is given up when so much in a row is rejected. Passes are more than two because the last
# good record of one may be the first, and that of the next the last.
_BARREN_PASSES, _BARREN_RECORDS = 3, 100_000


@dataclass
class Pool:
    """The next `size` usable utterances, or as many as there are before a source begins anew.

    So no recording is twice in a pool, and a small set is one pool on each pass.
    """

    size: int
    start: Position  # where it can be read again from
    rejects: RejectCounts  # those before it
    epochs: dict[int, int] = field(default_factory=dict)  # source -> the pass it is on
    utterances: list[Utterance] = field(default_factory=list)
    complete: bool = False


class PoolReader:
    """Reads a mixture from a position on and fills one pool after the other.

    Args:
        rejects: counted here, each record on its source's first pass only, but a shard that is
            lost on every pass: it may be another one each time.
        log: where they are written down, each with its id.
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
        drawn = ((_on_pass(draw), draw) for draw in mixture.draws(start))
        self._results = decode(drawn, preparer, num_workers)
        self._pending: tuple[Result, MixtureDraw] | None = None  # belongs to the next pool
        self._end = start  # after the last record that went into a pool
        self._fruitful = start  # after the last usable one
        self._barren = 0
        self.ended = False  # nothing comes after the pool that was filled last

    def begin(self, size: int) -> Pool:
        """An empty pool that begins where the last one ended, which must be complete."""
        return Pool(size, self._end, self._rejects.copy())

    def fill(self, pool: Pool, count: int) -> None:
        """Add up to `count` utterances; the pool is complete when it says so.

        Raises DataError when all the data is rejected.
        """
        wanted = min(len(pool.utterances) + count, pool.size)
        while len(pool.utterances) < wanted and not pool.complete:
            coming = self._pending or next(self._results, None)
            if coming is None:
                self.ended = pool.complete = True
                return
            result, draw = coming
            if pool.epochs.setdefault(draw.source, draw.epoch) != draw.epoch:
                self._pending, pool.complete = (result, draw), True
                return
            self._pending, self._end = None, draw.after
            self._add(pool, result, draw)
            pool.complete = len(pool.utterances) == pool.size

    def _add(self, pool: Pool, result: Result, draw: MixtureDraw) -> None:
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

    def check_fruitful(self) -> None:
        """Raise DataError if all data was read and rejected."""
        if self._rejects.total == self._rejects.seen:
            raise self._useless()

    def _useless(self) -> DataError:
        why = "; ".join(line.strip() for line in self._rejects.summary()) or "there is none"
        return DataError(f"No sample of the training data can be used: {why}.")

    def _check(self, utterance: Utterance) -> Reject | None:
        return over_budget(utterance, self._budget) or self._limits.check(utterance)


def over_budget(utterance: Utterance, budget: float) -> Reject | None:
    """The reject of an utterance of more seconds than fit into a batch, if it is one."""
    if utterance.seconds <= budget:
        return None
    message = f"{utterance.seconds:.1f} s, over training.batch_seconds={budget:g}"
    return Reject(utterance.id, utterance.source, "over_budget", message)


def _on_pass(draw: MixtureDraw) -> Item:
    """The item as it goes to a worker, which is to know the pass it belongs to."""
    return replace(draw.item, epoch=draw.epoch) if isinstance(draw.item, Record) else draw.item
