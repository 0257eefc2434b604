"""Sources that are read in shards: streamed from the hub, from addresses, or from local files.

The shards are shuffled anew on each pass, and their rows within blocks, so that a cursor is exact.
A shard that cannot be read to its end is left out from there on and comes out as one reject; a
resumed run leaves out the same (`lost_shards`).
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any

from tiny_audio.audio import remote
from tiny_audio.audio.remote import CORRUPT, UNREACHABLE, RetryPolicy, UnreadableError, is_remote
from tiny_audio.data.files import KEY, PROBLEM, FileShards, find_shards
from tiny_audio.data.hub import HubShards, open_dataset, undecoded
from tiny_audio.data.local import check_columns
from tiny_audio.data.records import Draw, Item, Record, Reject, Source, Spec, stable_hash, text_of
from tiny_audio.errors import DataError

logger = logging.getLogger(__name__)

RETRY_OPTIONS = ("on_failure", "retries", "backoff", "timeout")  # of a source in shards
_ROLES = ("audio", "text", "id", "speaker")
BLOCK = 1024  # rows that are shuffled together: about 100 MB of FLAC
_HELD_OUT_SHARE = 32  # one id in so many belongs to the held-out part
LOST_REASONS = tuple(f"shard_{reason}" for reason in (UNREACHABLE, CORRUPT))  # of rejects
_LOST_IN_A_ROW = 64  # shards without one row between them: the server is gone for good


@dataclass(frozen=True)
class Position:
    """A cursor: where a block starts, and which record of it comes next."""

    epoch: int = 0
    shard: int = 0  # position in the order in which this rank goes through its shards
    row: int = 0
    seen: int = 0  # rows of the pass before the block
    offset: int = 0


class ShardSource(Source):
    """Records out of shards."""

    def __init__(self, name: str, spec: Spec, shards: FileShards | HubShards) -> None:
        super().__init__(name, spec["weight"])
        self._shards, self._names, self._limit = shards, shards.names, spec["max_samples"]
        self._stop_at_loss = spec["options"].get("on_failure") == "stop"
        self._size = min((n for n in (shards.size(), self._limit) if n), default=None)
        self._held_out: bool | None = None  # None: all; else only the held-out part, or all but it
        self._count: int | None = None  # of the held-out part
        self.restore(None)

    @property
    def length(self) -> int | None:
        return self._size if self._held_out is None else None

    def records(self, start: int = 0) -> Iterator[Item]:
        self.restore(None)  # what was lost last time may be back
        rows = self._rows(Position(), range(len(self._names)), (0, 1), Event())
        items = (item for item, _ in rows if item is not None and self._belongs(item))
        yield from islice(items, start, self._count)

    def sample(self, count: int) -> list[Item]:
        """The first ones; none of a held-out part, which would be read through for them."""
        apart = copy.copy(self)  # what is lost now is not left out in training
        return [] if self._held_out else list(islice(apart.records(), count))

    def draws(self, seed: int, rank: int, world_size: int, cursor: Any) -> Iterator[Draw]:
        at = Position(**cursor) if cursor else Position()
        while True:
            drawn = lost = 0
            for block, here, after in self._blocks(at, seed, rank, world_size):
                rng = self.rng(seed, here.epoch, here.shard, here.row)
                order = rng.permutation(len(block))
                for offset in range(here.offset, len(block)):
                    item = block[order[offset]]
                    lost += isinstance(item, Reject) and item.reason in LOST_REASONS
                    if self._belongs(item):
                        drawn += 1
                        last = offset + 1 == len(block)
                        following = after if last else replace(here, offset=offset + 1)
                        yield Draw(item, here.epoch, asdict(following))
            if drawn == lost == 0 and at == Position(at.epoch):
                few = f"holds too few records for {world_size} process(es)"
                raise DataError(f"The data source {self.name!r} {few}: look at its path and split.")
            at = Position(at.epoch + 1)

    def lost_shards(self) -> list[list[Any]]:
        return [[*key, *lost] for key, lost in list(self._lost.items())]

    def restore(self, lost_shards: Any) -> None:
        # (pass, shard) -> the row from which on it is left out, reason, message
        self._lost: dict[tuple[int, int], tuple[int, str, str]] = {
            (epoch, shard): (row, reason, message)
            for epoch, shard, row, reason, message in lost_shards or ()
        }
        self._barren = 0  # shards lost since the last row

    def passes(self, cursor: Any, world_size: int) -> float:
        at = Position(**cursor) if cursor else Position()
        ranks = world_size if self._apart(world_size) else 1
        if self._size:
            done = (at.seen + at.offset * world_size // ranks) / self._size * ranks
        else:  # shards are taken to be as long as those before them
            usual = (at.seen - at.row) / at.shard if at.shard else 0
            part = min((at.row + at.offset) / usual, 1) if usual else 0
            done = (at.shard + part) / len(self._names) * ranks
        return at.epoch + min(done, 1.0)

    def hold_out(self, count: int) -> tuple[Source, Source]:
        """Hold out one id in 32; the held-out source yields the first `count`."""
        left, held = copy.copy(self), copy.copy(self)
        left._held_out, held._held_out = False, True
        held.restore(None)
        held._count = count
        return left, held

    def _belongs(self, item: Item) -> bool:
        held = isinstance(item, Record) and stable_hash(item.id) % _HELD_OUT_SHARE == 0
        return self._held_out in (None, held)

    def _apart(self, world_size: int) -> bool:
        """Whether each rank has shards of its own; else all read all, and share the rows."""
        return self._limit is None and len(self._names) >= world_size

    def _blocks(
        self, at: Position, seed: int, rank: int, world_size: int
    ) -> Iterator[tuple[list[Item], Position, Position]]:
        """Blocks of one pass, each with its position and the next; a thread reads ahead by one."""
        order: Sequence[int] = range(len(self._names))
        share = (rank, world_size)
        if self._limit is None:
            order = self.rng(seed, at.epoch).permutation(len(self._names)).tolist()
        if self._apart(world_size):
            order, share = order[rank::world_size], (0, 1)
        stopped = Event()
        rows = self._rows(at, order, share, stopped)

        def read() -> tuple[list[Item], Position]:
            block: list[Item] = []
            after = at
            for item, position in rows:
                after = position
                if item is not None:
                    block.append(item)
                if len(block) == BLOCK or stopped.is_set():
                    break
            return block, after

        with ThreadPoolExecutor(1, thread_name_prefix=f"read-{self.name}") as thread:
            try:
                block, after = read()
                while block:
                    coming = thread.submit(read)
                    yield block, at, after
                    at = after
                    block, after = coming.result()
            finally:
                stopped.set()

    def _rows(
        self, at: Position, order: Sequence[int], share: tuple[int, int], stopped: Event
    ) -> Iterator[tuple[Item | None, Position]]:
        """Each row or lost shard of a pass and the position after it; other ranks' rows: None."""
        rank, world_size = share
        seen = at.seen
        for position in range(at.shard, len(order)):
            row = at.row if position == at.shard else 0
            shard = order[position]
            for values in self._shard_rows(shard, at.epoch, row, stopped):
                if isinstance(values, Reject):
                    yield values, Position(at.epoch, position + 1, 0, seen)
                    continue
                if seen == self._limit:
                    return
                item = None
                if row % world_size == rank:
                    item = self._item(values, shard)
                row, seen = row + 1, seen + 1
                yield item, Position(at.epoch, position, row, seen)

    def _shard_rows(
        self, shard: int, epoch: int, row: int, stopped: Event
    ) -> Iterator[dict[str, Any] | Reject]:
        """Rows of one shard from `row` on, and a reject for what is, or was before, left out."""
        lost, first, failures = self._lost.get((epoch, shard)), row, 0
        while lost is None or row < lost[0]:
            stop = None if lost is None else lost[0] - row
            try:
                for values in islice(self._shards.rows(shard, row, stopped), stop):
                    row, failures, self._barren = row + 1, 0, 0
                    yield values
                break
            except UnreadableError as error:
                failures += 1
                if stopped.is_set():
                    return
                if failures > self._shards.retries(shard, error.reason):
                    message = f"{error}; left out from row {row} on"
                    lost = self._lost[epoch, shard] = (row, f"shard_{error.reason}", message)
                    self._barren += row == first
                    self._report(self._names[shard], f"{error}", row)
                    break
                if failures == 1:
                    logger.warning("%s: %s; trying again", self._names[shard], error)
                self._shards.policy.wait(failures, stopped)
        if lost is not None:
            yield Reject(self._names[shard], self.name, *lost[1:])

    def _report(self, shard: str, why: str, row: int) -> None:
        """Warn of a lost shard; raise DataError where one is too many, or all are lost."""
        of, every = f"of the data source {self.name!r}", len(self._names)
        if self._stop_at_loss:
            raise DataError(f"The shard {shard} {of} cannot be read: {why} (on_failure=stop).")
        if self._barren >= min(every, _LOST_IN_A_ROW):
            which = f"All {every}" if every <= _LOST_IN_A_ROW else f"{_LOST_IN_A_ROW} in a row"
            what = f"{which} of the shards {of} cannot be read, such as {shard}: {why}"
            raise DataError(f"{what}. Look at its path and at the network, then resume.")
        logger.warning("The shard %s %s: %s; left out from row %d on", shard, of, why, row)

    def _item(self, row: Mapping[str, Any], shard: int) -> Item:
        """The record of a row, its audio undecoded, or the reject that says what it lacks."""
        columns = self._shards.columns
        audio, path = audio_of(row[str(columns["audio"])], self._shards.paths[shard])
        record_id: str | None = path
        if columns["id"]:
            record_id = text_of(row[columns["id"]])
        elif KEY in row:
            record_id = f"{PurePosixPath(self._names[shard]).name}/{row[KEY]}"
        elif isinstance(audio, bytes):  # paths of embedded audio are often all alike
            record_id = f"{path}#{hashlib.blake2b(audio, digest_size=6).hexdigest()}"
        if PROBLEM in row:
            return Reject(record_id or row[KEY], self.name, "bad_record", row[PROBLEM])
        text = text_of(row[str(columns["text"])])
        if record_id is None or audio is None:
            message = "no audio" if audio is None else f"no id in {columns['id']!r}"
            return Reject(record_id or path or "?", self.name, "bad_record", message)
        if text is None:
            message = f"no text in {columns['text']!r}"
            return Reject(record_id, self.name, "no_transcript", message)
        speaker = text_of(row[str(columns["speaker"])]) if columns["speaker"] else None
        return Record(record_id, self.name, audio, text, speaker)


def audio_of(cell: Any, here: str = "") -> tuple[bytes | str | Path | None, str]:
    """The audio of a table's cell and the path it names, relative to the table, or ""."""
    if not isinstance(cell, dict):
        cell = {"bytes" if isinstance(cell, bytes) else "path": cell}
    path, data = str(cell.get("path") or ""), cell.get("bytes")
    if data is not None:
        return bytes(data), path
    if path and not is_remote(path):
        beside = os.path.join(os.path.dirname(here), path)
        path = urllib.parse.urljoin(here, path) if remote.is_http(here) else beside
    return (path if is_remote(path) else Path(path) if path else None), path


def open_shards(name: str, spec: Spec, key: str) -> ShardSource:
    """Open a dataset of the hub or a folder of its files, or files of parquet or WebDataset.

    Raises DataError if there is none, or if it lacks a column.
    """
    kind, path = spec["kind"], spec["path"]
    policy = _retry_policy(spec["options"], f"{key}.options")
    columns: dict[str, str | None] = {role: spec[f"{role}_column"] for role in _ROLES}
    shards: HubShards | FileShards
    if kind == "hub":
        further = {n: value for n, value in spec["options"].items() if n not in RETRY_OPTIONS}
        dataset = open_dataset(spec, key, further)
        found, where = list(dataset.column_names or []), f"The dataset {path}"
    else:
        shards = FileShards(kind, find_shards(path, kind, key), columns, policy)
        found, where = shards.found_columns(key), shards.names[0]
    check_columns({f"{role}_column": columns[role] for role in _ROLES[:3]}, found, where=where)
    if columns["speaker"] not in found and kind != "webdataset":  # it need not be there
        columns["speaker"] = None
    if kind == "hub":
        dataset = undecoded(dataset, columns, f"{key}.audio_column")
        shards = HubShards(dataset, spec, columns, policy)
    return ShardSource(name, spec, shards)


def _retry_policy(options: Mapping[str, Any], where: str) -> RetryPolicy:
    """How long a shard is waited for; or a DataError."""
    if (on_failure := options.get("on_failure", "skip")) not in ("skip", "stop"):
        raise DataError(f"{where}.on_failure={on_failure}: use skip or stop.")
    chosen = {name: options[name] for name in RETRY_OPTIONS[1:] if name in options}
    for name, value in chosen.items():
        least = 0.001 if name == "timeout" else 0
        kinds = (int,) if name == "retries" else (int, float)
        if type(value) not in kinds or value < least:
            raise DataError(f"{where}.{name}={value}: use a number from {least} on.")
    return RetryPolicy(**chosen)
