"""Hugging Face datasets, streamed: from the hub, or from parquet and the like on this machine.

The order of the files is shuffled anew on each pass. Within them the rows are read in blocks, and
each block is shuffled: unlike a rolling shuffle buffer, a block can be read again from where it
starts, so that a cursor is exact. The audio column stays undecoded bytes (`audio/io.py` decodes).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from threading import Event
from typing import Any

import numpy as np

from tiny_audio.data.hub_open import audio_of, open_dataset, undecoded
from tiny_audio.data.manifest import check_columns
from tiny_audio.data.records import Cursor, Draw, Source, id_hash, name_seed, text_of
from tiny_audio.data.utterance import Record, Reject
from tiny_audio.errors import DataError

BLOCK = 1024  # rows that are shuffled together: about 100 MB of FLAC
HELD_OUT_SHARE = 32  # one id in so many belongs to the held-out part
_EPOCHS = 2**31 - 1


class HubSource(Source):
    """A streaming `datasets` dataset.

    Args:
        path: hub id, or a local folder or file of parquet, arrow or webdataset.
        key: where the settings of this source stand, for messages: ``data.train.main``.
        options: further arguments of ``datasets.load_dataset``.

    Raises DataError if the dataset cannot be opened or lacks a column.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        key: str,
        weight: float,
        max_samples: int | None,
        subset: str | None,
        split: str,
        revision: str | None,
        audio_column: str,
        text_column: str,
        id_column: str | None,
        speaker_column: str | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__(name, weight)
        self._audio, self._text, self._id = audio_column, text_column, id_column
        self._held_out: bool | None = None  # None: all; else only the held-out part, or all but it
        self._count: int | None = None  # of the held-out part
        self._limit = max_samples
        dataset = open_dataset(path, subset, split, revision, options, key)
        columns = list(dataset.column_names or [])
        wanted = {"audio_column": audio_column, "text_column": text_column, "id_column": id_column}
        check_columns(wanted, columns, where=f"The dataset {path}", key=key)
        self._speaker = speaker_column if speaker_column in columns else None
        used = [audio_column, text_column, id_column, self._speaker]
        self._dataset = undecoded(dataset, audio_column, used, f"{key}.audio_column")
        splits = self._dataset.info.splits or {}
        size = splits[split].num_examples if split in splits else None
        self._size = min((n for n in (size, max_samples) if n), default=None)

    @property
    def length(self) -> int | None:
        return self._size if self._held_out is None else None

    def records(self, start: int = 0) -> Iterator[Record | Reject]:
        rows = islice(iter(self._dataset), self._limit)
        items = (item for item in map(self._item, rows) if self._belongs(item))
        yield from islice(items, start, self._count)

    def draws(self, seed: int, rank: int, world_size: int, cursor: Cursor) -> Iterator[Draw]:
        at = Place(**cursor) if cursor else Place()
        while True:
            drawn = 0
            for block, here, after in self._blocks(at, seed, rank, world_size):
                rng = np.random.default_rng([seed, name_seed(self.name), here.epoch, here.block])
                order = rng.permutation(len(block))
                for offset in range(here.offset, len(block)):
                    item = self._item(block[order[offset]])
                    if self._belongs(item):
                        drawn += 1
                        following = replace(here, offset=offset + 1)
                        last = offset + 1 == len(block)
                        yield Draw(item, here.epoch, asdict(after if last else following))
            if not drawn and at == Place(at.epoch):
                raise DataError(
                    f"The data source {self.name!r} holds too few records for {world_size} "
                    "process(es): look at its path and split."
                )
            at = Place(at.epoch + 1)

    def _blocks(
        self, at: Place, seed: int, rank: int, world_size: int
    ) -> Iterator[tuple[list[dict[str, Any]], Place, Place]]:
        """Blocks of one pass from `at` on, each with its place and the place after it.

        A thread reads the next block while the last one is used: the network is slow.
        """
        dataset, step, phase = self._dataset, world_size, rank
        if self._limit is not None:
            dataset = dataset.take(self._limit)
        elif dataset.num_shards >= world_size:  # each rank has its own files
            dataset, step, phase = dataset.shard(num_shards=world_size, index=rank), 1, 0
        # An epoch of `datasets` that is not 0 is the seed of a shuffle of the files.
        dataset.set_epoch(1 + (name_seed(self.name) + seed * 9_973 + at.epoch) % _EPOCHS)
        if at.mark is not None:
            dataset.load_state_dict(copy.deepcopy(at.mark))
        rows = iter(dataset)
        stopped = Event()

        def read() -> tuple[list[dict[str, Any]], bool, Any]:
            block, ended = [], True
            for number, row in enumerate(islice(rows, BLOCK * step)):
                ended = stopped.is_set()
                if ended:
                    break
                if number % step == phase:
                    block.append(row)
            return block, ended, dataset.state_dict()

        with ThreadPoolExecutor(1, thread_name_prefix=f"read-{self.name}") as thread:
            try:
                coming = thread.submit(read)
                while True:
                    block, ended, mark = coming.result()
                    if ended:
                        return
                    coming = thread.submit(read)
                    after = Place(at.epoch, at.block + 1, 0, mark)
                    yield block, at, after
                    at = after
            finally:
                stopped.set()

    def passes(self, cursor: Cursor, world_size: int) -> float:
        at = Place(**cursor) if cursor else Place()
        if not self._size:
            return float(at.epoch)
        return at.epoch + min((at.block * BLOCK + at.offset) * world_size / self._size, 1.0)

    def hold_out(self, count: int) -> tuple[Source, Source]:
        """Hold out one id in 32, by its hash; the held-out source yields the first `count`."""
        left, held = copy.copy(self), copy.copy(self)
        left._held_out, held._held_out = False, True
        held._count = count
        return left, held

    def _belongs(self, item: Record | Reject) -> bool:
        if self._held_out is None:
            return True
        held = isinstance(item, Record) and id_hash(item.id) % HELD_OUT_SHARE == 0
        return held == self._held_out

    def _item(self, row: dict[str, Any]) -> Record | Reject:
        audio, path = audio_of(row[self._audio])
        if self._id:
            record_id = text_of(row[self._id])
        elif isinstance(audio, bytes):  # paths of embedded audio are often all alike
            record_id = f"{path}#{hashlib.blake2b(audio, digest_size=6).hexdigest()}"
        else:
            record_id = path
        text = text_of(row[self._text])
        if record_id is None or audio is None:
            what = "no audio" if audio is None else f"no id in {self._id!r}"
            return Reject(record_id or path or "?", self.name, "bad_record", what)
        if text is None:
            return Reject(record_id, self.name, "no_transcript", f"no text in {self._text!r}")
        speaker = text_of(row[self._speaker]) if self._speaker else None
        return Record(record_id, self.name, audio, text, speaker)


@dataclass(frozen=True)
class Place:
    """A cursor: a row of a shuffled block, and the dataset's own state where the block starts."""

    epoch: int = 0
    block: int = 0
    offset: int = 0
    mark: Any = None
