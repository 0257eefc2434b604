"""What the loop is given: how long and how fast, and batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from tiny_audio.data.rejects import RejectCounts
from tiny_audio.model.batch import Batch
from tiny_audio.train.optim import lr_multiplier


@dataclass(frozen=True)
class Pace:
    """How long, how fast, and what happens when; see TrainingConfig. 0 steps: never."""

    max_steps: int
    gradient_accumulation_steps: int
    warmup_steps: int
    min_lr_rate: float
    max_grad_norm: float
    logging_steps: int
    eval_steps: int
    save_steps: int
    eval_start: bool = False  # before the first step of a run that begins with trained weights

    def multiplier(self, step: int) -> float:
        """Of the learning rate in a step, the first being 0."""
        return lr_multiplier(
            step,
            warmup_steps=self.warmup_steps,
            max_steps=self.max_steps,
            min_ratio=self.min_lr_rate,
        )


class Stream(Protocol):
    """Training batches of this process."""

    @property
    def epoch(self) -> float: ...

    def __iter__(self) -> Iterator[Batch]: ...


class Data(Stream, Protocol):
    """A stream that knows where it stands and what it has left out."""

    @property
    def rejects(self) -> RejectCounts: ...

    @property
    def usage(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class Frames(Protocol):
    """Gives batches the encoder's frames, and brings them to the device."""

    def __call__(self, batch: Batch) -> Batch: ...

    def summary(self) -> str: ...
