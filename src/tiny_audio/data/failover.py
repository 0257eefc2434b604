"""Shards read one by one, whatever happens to each: what cannot be read is left out, and told."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from threading import Event
from typing import Any, Protocol

from tiny_audio.data.rejects import Reject
from tiny_audio.data.remote import Patience, ShardError
from tiny_audio.errors import DataError

logger = logging.getLogger(__name__)

_LOST_IN_A_ROW = 64  # shards without one row between them: the server is gone for good


class Shards(Protocol):
    """What is read: rows are dicts by column."""

    @property
    def names(self) -> list[str]:
        """What each shard is called in messages."""

    def rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        """Rows of one shard from `start` on; raises ShardError when it is given up."""


@dataclass(frozen=True)
class Loss:
    """What is left out of one shard on one pass: everything from row `row` on."""

    row: int
    reason: str
    message: str


class ShardReader:
    """Reads shards, and remembers on which pass what was left out of which.

    Args:
        source: name of the data source, for messages.
        patience: tells whether a lost shard is left out or ends the run.
    """

    def __init__(self, source: str, shards: Shards, patience: Patience) -> None:
        self._source, self._shards, self._patience = source, shards, patience
        self._losses: dict[tuple[int, int], Loss] = {}  # (pass, shard) -> what is left out
        self._barren = 0  # shards lost without a row before them
        self._fruitful = False  # whether a row came since the last loss

    def rows(
        self, shard: int, epoch: int, row: int, stopped: Event
    ) -> Iterator[dict[str, Any] | Reject]:
        """Rows of one shard from `row` on, and a reject at the end if it was not the whole.

        What was left out before on this pass is left out again.

        Raises DataError if all shards are lost, or if one is and `on_failure` is ``stop``.
        """
        loss = self._losses.get((epoch, shard))
        if loss is None or row < loss.row:
            stop = None if loss is None else loss.row - row
            try:
                for values in islice(self._shards.rows(shard, row, stopped), stop):
                    row += 1
                    self._fruitful = True
                    yield values
            except ShardError as error:
                if stopped.is_set():
                    return
                message = f"{error}; left out from row {row} on"
                loss = self._losses[epoch, shard] = Loss(row, error.reason, message)
                self._report(shard, error, message)
        if loss is not None:
            yield Reject(self._shards.names[shard], self._source, loss.reason, loss.message)

    def losses(self) -> list[list[Any]]:
        """What was left out so far, as JSON values."""
        return [[*key, *asdict(loss).values()] for key, loss in list(self._losses.items())]

    def restore(self, losses: Iterable[Any]) -> None:
        """Leave out what `losses` told of, and nothing else."""
        self._losses = {(epoch, shard): Loss(*loss) for epoch, shard, *loss in losses}
        self._barren, self._fruitful = 0, False

    def forget(self, epoch: int) -> None:
        """Forget passes before this one."""
        self._losses = {key: loss for key, loss in self._losses.items() if key[0] >= epoch}

    def _report(self, shard: int, error: ShardError, message: str) -> None:
        name, every = self._shards.names[shard], len(self._shards.names)
        where = f"The shard {name} of the data source {self._source!r}"
        if self._patience.on_failure == "stop":
            raise DataError(f"{where} cannot be read: {error} (on_failure=stop).")
        self._barren = 0 if self._fruitful else self._barren + 1
        self._fruitful = False
        if self._barren >= min(every, _LOST_IN_A_ROW):
            which = f"All {every}" if every <= _LOST_IN_A_ROW else f"{_LOST_IN_A_ROW} in a row"
            raise DataError(
                f"{which} of the shards of the data source {self._source!r} cannot be read, such "
                f"as {name}: {error}. Look at its path and at the network, then resume."
            )
        logger.warning("%s: %s", where, message)
