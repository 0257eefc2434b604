"""What the loop is given: how long and how fast, and batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tiny_audio.model.batch import Batch


@dataclass(frozen=True)
class Pace:
    """How long, how fast, and what happens when; see TrainingConfig. 0 steps: never."""

    max_steps: int
    accumulation: int
    warmup_steps: int
    min_lr_ratio: float
    max_grad_norm: float
    log_every: int
    eval_every: int
    save_every: int


class Stream(Protocol):
    """Training batches of this process."""

    @property
    def epoch(self) -> float: ...

    def __iter__(self) -> Iterator[Batch]: ...
