"""Records, utterances, and what every source of data is. S samples."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count as count_from
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import DataError

# What `load_audio` takes, or a function that fetches or makes it in the worker process.
Audio = str | Path | bytes | npt.NDArray[np.float32]
LazyAudio = Callable[[], Audio]
Spec = Mapping[str, Any]  # the fields of one source's ``SourceConfig``
Cursor = Any  # a JSON value that only its source understands; None is the beginning


@dataclass(frozen=True)
class Record:
    """One sample as its source holds it, before anything is decoded; small and picklable."""

    id: str
    source: str
    audio: Audio | LazyAudio
    text: str
    speaker: str | None = None
    seconds: float | None = None  # as the source declares, None where it does not
    offset: float | None = None  # seconds into the audio where the sample begins; None: all of it
    epoch: int = 0  # the pass over its source on which training drew it
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Utterance:
    """One decoded sample: waveform float32 [S] mono 16 kHz and its cleaned label.

    `extra`: the source's other columns and, as ``transcript``, the text before cleaning.
    """

    id: str
    waveform: npt.NDArray[np.float32]
    text: str
    source: str
    speaker: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.waveform) / SAMPLE_RATE


Item = Record | Reject


@dataclass(frozen=True)
class Draw:
    """One record of an endless stream."""

    item: Item
    epoch: int  # how often the source was passed through before
    cursor: Cursor  # where the next draw is


class Source(ABC):
    """One set of recordings with transcripts."""

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight

    def rng(self, seed: int, *tags: int) -> np.random.Generator:
        """Random numbers that no source of another name draws with the same seed."""
        return np.random.default_rng([seed, id_hash(self.name) % 2**32, *tags])

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Records in one pass; None where it is unknown or endless."""

    @property
    def endless(self) -> bool:
        """Whether one pass never ends."""
        return False

    @abstractmethod
    def records(self, start: int = 0) -> Iterator[Item]:
        """One pass in the source's own order, from record `start` on."""

    @abstractmethod
    def sample(self, count: int) -> list[Item]:
        """At most `count` records to look at, which leaves training's draws as they are."""

    @abstractmethod
    def draws(self, seed: int, rank: int, world_size: int, cursor: Cursor) -> Iterator[Draw]:
        """This rank's own share of an endless stream, each pass in another order.

        A draw is a function of the seed, the rank and the cursor alone.
        """

    @abstractmethod
    def passes(self, cursor: Cursor, world_size: int) -> float:
        """How often the ranks together have been through the source when one is at `cursor`."""

    @abstractmethod
    def hold_out(self, count: int) -> tuple[Source, Source]:
        """The source without some records, and those: about `count`, chosen by id alone."""

    def lost_shards(self) -> Any:
        """What draws had to leave out so far, for `restore`; a JSON value."""
        return None

    def restore(self, lost_shards: Any) -> None:  # noqa: B027 - most sources lose nothing
        """Leave out what another source of the same data left out, so that draws are the same."""


class IndexedSource(Source):
    """A source whose records can be read one by one: subclasses give `size` and `read`.

    Of them only the first `max_samples` are used.
    """

    def __init__(self, name: str, weight: float, max_samples: int | None) -> None:
        super().__init__(name, weight)
        self._max_samples = max_samples
        self._positions: npt.NDArray[np.int64] | None = None  # those that a hold-out left here

    @abstractmethod
    def size(self) -> int | None:
        """Records there are; None is endless."""

    @abstractmethod
    def read(self, index: int) -> Item:
        """Record number `index`, cheaply: nothing is decoded."""

    @property
    def length(self) -> int | None:
        if self._positions is not None:
            return len(self._positions)
        sizes = [n for n in (self.size(), self._max_samples) if n is not None]
        return min(sizes, default=None)

    @property
    def endless(self) -> bool:
        return self.length is None

    def _item(self, position: int) -> Item:
        return self.read(position if self._positions is None else int(self._positions[position]))

    def records(self, start: int = 0) -> Iterator[Item]:
        length = self.length
        yield from map(self._item, count_from(start) if length is None else range(start, length))

    def sample(self, count: int) -> list[Item]:
        """Always the same ones, from all over the set; the first of an endless one."""
        length = count if self.length is None else self.length
        chosen = np.random.default_rng(0).choice(length, min(count, length), replace=False)
        return [self._item(position) for position in sorted(chosen.tolist())]

    def draws(self, seed: int, rank: int, world_size: int, cursor: Cursor) -> Iterator[Draw]:
        length = self.length
        if length == 0:
            raise DataError(f"The data source {self.name!r} holds no records: look at its path.")
        drawn = int(cursor or 0)  # by this rank; rank r owns the positions r, r + world_size, ...
        order: npt.NDArray[np.int64] | None = None
        for number in count_from(drawn):
            position, epoch = number * world_size + rank, 0
            if length is not None:
                epoch, position = divmod(position, length)
                if order is None or position < world_size:  # a new pass
                    order = self.rng(seed, epoch).permutation(length)
                position = int(order[position])
            yield Draw(self._item(position), epoch, number + 1)

    def passes(self, cursor: Cursor, world_size: int) -> float:
        return int(cursor or 0) * world_size / self.length if self.length else 0.0

    def hold_out(self, count: int) -> tuple[Source, Source]:
        """Hold out the records with the smallest hash of their id, at most a tenth of all."""
        length = self.length
        if length is None:
            what = f"The data source {self.name!r} is endless, nothing can be held out of it"
            raise DataError(f"{what}: set max_samples, or give evaluation data.")
        count = min(count, max(1, length // 10)) if length > 1 else 0
        items = enumerate(self.records())
        ranked = sorted((id_hash(item.id), p) for p, item in items if isinstance(item, Record))
        held = np.array(sorted(position for _, position in ranked[:count]), dtype=np.int64)
        return self._only(np.setdiff1d(np.arange(length), held)), self._only(held)

    def _only(self, positions: npt.NDArray[np.int64]) -> Self:
        part = copy.copy(self)
        part._positions = positions if self._positions is None else self._positions[positions]
        return part


def bytes_hash(data: bytes) -> int:
    """A number in [0, 2**64), the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def id_hash(record_id: str) -> int:
    """`bytes_hash` of an id."""
    return bytes_hash(record_id.encode())


def text_of(value: object) -> str | None:
    """A transcript as text: numbers are written out as they stand, None and the rest are none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None
