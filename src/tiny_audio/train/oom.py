"""Out of memory in the middle of a run: the batch is cut smaller, and the run goes on.

A batch's loss is a sum over its label tokens, so the gradients of its parts add up to that of the
whole: nothing is lost but time. A step that runs out is begun anew, because a backward pass that
broke off has left a part of its gradients behind.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tiny_audio.errors import TinyAudioError
from tiny_audio.model.batch import Batch

_MESSAGES = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(TinyAudioError):
    """A single utterance does not fit."""


class MemoryGuard:
    """Runs the micro-batches of a step, in parts where they do not fit as a whole."""

    def __init__(self) -> None:
        self.limit = math.inf  # seconds of padded audio that are computed at once
        self.times = 0  # that memory ran out

    def run(
        self,
        window: Sequence[Batch],
        work: Callable[[Batch, bool], Tensor],
        forget: Callable[[], None],
        *,
        recover: bool = True,
    ) -> list[Tensor]:
        """Do the work of one step.

        Args:
            window: micro-batches.
            work: loss and backward of a part, told whether it is the last of all; returns sums
                over the part's tokens [n].
            forget: drops the gradients so far.
            recover: False under FSDP, whose processes wait for each other in the middle of it.

        Returns:
            For each micro-batch its sums [n].

        Raises:
            OutOfMemory: not even one utterance fits.
        """
        while True:
            parts = [(n, part) for n, b in enumerate(window) for part in split(b, self.limit)]
            sums: list[Tensor | None] = [None] * len(window)
            done = 0
            try:
                for number, part in parts:
                    made, before = work(part, done == len(parts) - 1), sums[number]
                    sums[number] = made if before is None else before + made
                    done += 1
                return [total for total in sums if total is not None]
            except (RuntimeError, MemoryError) as error:
                if not recover or not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with it the frames that held on to tensors.
            sums.clear()
            self._halve(parts[done][1])
            forget()
            del parts
            release()

    def _halve(self, part: Batch) -> None:
        self.times += 1
        if len(part) == 1:
            raise OutOfMemory(
                f"{part.ids[0] if part.ids else 'an utterance'} ({part.padded_seconds:.1f} s) does "
                "not fit into memory alone; lower data.max_seconds, or set "
                "training.gradient_checkpointing=true"
            )
        self.limit = min(self.limit, part.padded_seconds) / 2


def split(batch: Batch, limit: float) -> list[Batch]:
    """Cut a training batch into parts of at most ``limit`` seconds of padded audio each.

    An utterance longer than that is a part of its own.
    """
    if batch.padded_seconds <= limit:
        return [batch]
    seconds = [n / 16_000 for n in batch.waveform_lengths.tolist()]
    parts: list[Batch] = []
    first, longest = 0, 0.0
    for row, length in enumerate(seconds):
        longest = max(longest, length)
        if row > first and longest * (row + 1 - first) > limit:
            parts.append(batch.rows(first, row))
            first, longest = row, length
    return [*parts, batch.rows(first, len(batch))]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(m in str(error) for m in _MESSAGES)


def release() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
