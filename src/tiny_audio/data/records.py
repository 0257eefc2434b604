"""Records, utterances, rejects, and what every source of data is. S samples."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.errors import DataError

# What `load_audio` takes, or a function that fetches or makes it in the worker process.
Audio = str | Path | bytes | npt.NDArray[np.float32]
LazyAudio = Callable[[], Audio]
Spec = Mapping[str, Any]  # the fields of one source's ``SourceConfig``
Cursor = Any  # a JSON value that only its source understands; None is the beginning
EXAMPLES = 5  # ids kept for each reason for a reject, enough to go and look


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


@dataclass(frozen=True)
class Reject:
    """One sample that cannot be used: `reason` is the key it is counted under."""

    id: str
    source: str
    reason: str
    message: str


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
        return np.random.default_rng([seed, stable_hash(self.name) % 2**32, *tags])

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
        """This rank's share of an endless stream, each pass in another order, from a cursor on."""

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
    """A source whose records can be read one by one, the first `max_samples` of them."""

    size: int | None = None  # records there are; None is endless

    def __init__(self, name: str, weight: float, max_samples: int | None) -> None:
        super().__init__(name, weight)
        self._max_samples = max_samples
        self._positions: npt.NDArray[np.int64] | None = None  # those that a hold-out left here

    @abstractmethod
    def read(self, index: int) -> Item:
        """Record number `index`, cheaply: nothing is decoded."""

    @property
    def length(self) -> int | None:
        if self._positions is not None:
            return len(self._positions)
        sizes = [n for n in (self.size, self._max_samples) if n is not None]
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
        ranked = sorted((stable_hash(item.id), p) for p, item in items if isinstance(item, Record))
        held = np.array(sorted(position for _, position in ranked[:count]), dtype=np.int64)
        return self._only(np.setdiff1d(np.arange(length), held)), self._only(held)

    def _only(self, positions: npt.NDArray[np.int64]) -> Self:
        part = copy.copy(self)
        part._positions = positions if self._positions is None else self._positions[positions]
        return part


def stable_hash(data: bytes | str) -> int:
    """A number in [0, 2**64), the same on every machine."""
    data = data.encode() if isinstance(data, str) else data
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def text_of(value: object) -> str | None:
    """A transcript as text: numbers are written out as they stand, None and the rest are none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


@dataclass
class RejectCounts:
    """How many samples were read, and how many were rejected for which reason."""

    seen: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason -> "source/id: message"

    @property
    def total(self) -> int:
        """Samples rejected for whatever reason."""
        return sum(self.reasons.values())

    def add(self, reject: Reject) -> None:
        """Count one rejected sample (`seen` is counted by whoever reads)."""
        self.reasons[reject.reason] += 1
        examples = self.examples.setdefault(reject.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{reject.source}/{reject.id}: {reject.message}")

    def merge(self, other: RejectCounts) -> None:
        """Add the counts of another reader."""
        self.seen += other.seen
        self.reasons.update(other.reasons)
        for reason, found in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + found)[:EXAMPLES]

    def summary(self) -> list[str]:
        """Lines for people: one over all, then one for each reason, the most frequent first."""
        if not self.total:
            return []
        return [f"rejected {self.total:,} of {self.seen:,} samples"] + [
            f"  {count:,} {reason}, such as {self.examples[reason][0]}"
            for reason, count in self.reasons.most_common()
        ]

    def why(self) -> str:
        """All of `summary` in one line, for an error where nothing is left."""
        return "; ".join(map(str.strip, self.summary())) or "it is empty"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"seen": self.seen, "reasons": dict(self.reasons), "examples": self.examples}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RejectCounts:
        """An independent copy of the counts that `to_dict` gave."""
        return cls(values["seen"], Counter(values["reasons"]), copy.deepcopy(values["examples"]))


class RejectLog:
    """One line for each rejected record; without a folder no file. The process that trains writes
    it, never its workers, and each rank its own: rejects.jsonl, rejects-1.jsonl, rejects-2.jsonl, …
    """

    def __init__(self, folder: Path | None = None, rank: int = 0) -> None:
        name = f"rejects-{rank}.jsonl" if rank else "rejects.jsonl"
        self._path = None if folder is None else folder / name

    def continue_from(self, folder: Path) -> None:
        """Take over what another run's folder has, for a run that goes on from there."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError, shutil.SameFileError):
                shutil.copyfile(folder / self._path.name, self._path)

    def keep(self, count: int) -> None:
        """Forget all but the first `count` rejects: a resumed run meets the others again."""
        if self._path is not None and self._path.exists():
            with self._path.open("r+b") as file:
                whole = (line for line in islice(file, count) if line.endswith(b"\n"))
                file.truncate(sum(map(len, whole)))

    def add(self, reject: Reject) -> None:
        """Append one, at once and whole, so that a kill loses none. Raises DataError."""
        if self._path is None:
            return
        line = json.dumps(asdict(reject), ensure_ascii=False).encode("utf-8", "backslashreplace")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(line + b"\n")
        except OSError as error:
            message = f"{self._path}: cannot be written ({error.strerror}); free some space"
            raise DataError(message) from error
