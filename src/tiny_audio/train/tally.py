"""Sums between two log lines, over all processes, and the row of metrics they make."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_PIECES = 3  # of 16 bits: float32, in which processes add up, holds the sum of 256 of them


def id_numbers(ids: Iterable[str], rank: int) -> list[float]:
    """A hash of one process's sample ids, in their order, as numbers to be added over processes."""
    text = "\n".join([str(rank), *ids])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=2 * _PIECES)
    return [float(int.from_bytes(digest.digest()[2 * n :][:2], "big")) for n in range(_PIECES)]


@dataclass
class Tally:
    """What the steps since the last log line add up to."""

    steps: int = 0
    ce_sum: float = 0.0  # nats
    aux_sum: float = 0.0  # of the projector's own loss, times tokens
    tokens: float = 0.0  # label tokens
    grad_norm_sum: float = 0.0
    grad_norm_max: float = 0.0
    audio_seconds: float = 0.0
    padded_seconds: float = 0.0  # computed audio, padding included
    seconds: float = 0.0  # of wall time spent in steps
    samples: str = ""  # hash of the ids of all samples, step by step
    ooms: int = 0  # times that memory ran out
    _since: float = field(default_factory=time.perf_counter, repr=False)

    def begin_step(self) -> None:
        """Start the clock; time spent on evaluation and saving is not training time."""
        self._since = time.perf_counter()

    def end_step(
        self, *, ce_sum: float, aux_sum: float, tokens: float, audio: float, padded: float,
        grad_norm: float, samples: Sequence[float] = (), ooms: int = 0,
    ) -> None:  # fmt: skip
        """Add one update: its sums over the global batch, and its gradient norm before clipping.

        ``samples`` is the sum over the processes of ``id_numbers``.
        """
        self.steps += 1
        self.ce_sum += ce_sum
        self.aux_sum += aux_sum
        self.tokens += tokens
        self.audio_seconds += audio
        self.padded_seconds += padded
        self.ooms += ooms
        self.grad_norm_sum += grad_norm
        self.grad_norm_max = max(self.grad_norm_max, grad_norm)
        self.seconds += time.perf_counter() - self._since
        chain = f"{self.samples} {list(map(int, samples))}"
        self.samples = hashlib.blake2b(chain.encode(), digest_size=6).hexdigest()

    def row(self) -> dict[str, Any]:
        """Means since the last row, by the names of metrics.jsonl."""
        seconds = max(self.seconds, 1e-9)
        row = {
            "loss": self.ce_sum / self.tokens,
            "aux_loss": self.aux_sum / self.tokens,
            "grad_norm": self.grad_norm_sum / self.steps,
            "grad_norm_max": self.grad_norm_max,
            "audio_seconds_per_second": self.audio_seconds / seconds,
            "padding": 1 - self.audio_seconds / max(self.padded_seconds, 1e-9),
            "seconds_per_step": self.seconds / self.steps,
            "samples": self.samples,
        }
        return row | ({"out_of_memory": float(self.ooms)} if self.ooms else {})

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint between two log lines."""
        return {name: value for name, value in asdict(self).items() if name != "_since"}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Tally:
        """The tally that ``state_dict`` described."""
        return cls(**{f.name: state[f.name] for f in fields(cls) if f.name in state})
