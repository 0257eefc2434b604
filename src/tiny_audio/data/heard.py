"""How much of each source was learned from: utterances and seconds, as they came in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tiny_audio.data.utterance import Utterance


@dataclass
class Heard:
    """Source -> utterances and seconds of audio so far."""

    utterances: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, batch: Iterable[Utterance]) -> None:
        """Count a batch."""
        for utterance in batch:
            name = utterance.source
            self.utterances[name] = self.utterances.get(name, 0) + 1
            self.seconds[name] = self.seconds.get(name, 0.0) + utterance.seconds

    def merge(self, other: Heard) -> None:
        """Add what another process counted."""
        for name, count in other.utterances.items():
            self.utterances[name] = self.utterances.get(name, 0) + count
            self.seconds[name] = self.seconds.get(name, 0.0) + other.seconds[name]

    def row(self) -> dict[str, float]:
        """Figures by the names of metrics.jsonl: utterances_<source> and hours_<source>."""
        hours = {f"hours_{name}": seconds / 3600 for name, seconds in self.seconds.items()}
        return {f"utterances_{name}": n for name, n in self.utterances.items()} | hours

    def summary(self) -> list[str]:
        """A line for people where there are several sources: their shares, the largest first."""
        if len(self.utterances) < 2:
            return []
        utterances, seconds = sum(self.utterances.values()), sum(self.seconds.values())
        order = sorted(self.seconds, key=lambda name: -self.seconds[name])
        parts = (
            f"{name} {self.utterances[name] / utterances:.1%} of the utterances, "
            f"{self.seconds[name] / max(seconds, 1e-9):.1%} of {seconds / 3600:.2f} h"
            for name in order
        )
        return ["Heard: " + "; ".join(parts)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"utterances": dict(self.utterances), "seconds": dict(self.seconds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Heard:
        """What `to_dict` wrote."""
        return cls(dict(values.get("utterances", {})), dict(values.get("seconds", {})))
