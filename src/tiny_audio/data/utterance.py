"""What flows through the data floor: Record -> Utterance or Reject, and the count of rejects.

Letters: S samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE

EXAMPLES = 5  # ids kept for each reason, enough to go and look

# What `load_audio` takes, or a function that fetches or makes it in the worker process.
Audio = str | Path | bytes | npt.NDArray[np.float32]
LazyAudio = Callable[[], Audio]


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

    `extra` holds the source's other columns and, as ``transcript``, the text before cleaning.
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
        lines = [f"rejected {self.total:,} of {self.seen:,} samples"]
        for reason, count in self.reasons.most_common():
            lines.append(f"  {count:,} {reason}, such as {self.examples[reason][0]}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"seen": self.seen, "reasons": dict(self.reasons), "examples": self.examples}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RejectCounts:
        """The counts that `to_dict` wrote."""
        examples = {reason: list(found) for reason, found in values["examples"].items()}
        return cls(values["seen"], Counter(values["reasons"]), examples)

    def copy(self) -> RejectCounts:
        """An independent copy."""
        return RejectCounts.from_dict(self.to_dict())
