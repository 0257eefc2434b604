"""Records that cannot be used: why, how many, and rejects.jsonl, which lists those of training."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tiny_audio.errors import DataError

EXAMPLES = 5  # ids kept for each reason, enough to go and look


@dataclass(frozen=True)
class Reject:
    """One sample that cannot be used: `reason` is the key it is counted under."""

    id: str
    source: str
    reason: str
    message: str


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
        return cls(values["seen"], Counter(values["reasons"]), deepcopy(values["examples"]))


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
