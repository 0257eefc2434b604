"""One stream of batches, encoded once, for several runs that take turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.data.batching import with_tokens
from tiny_audio.data.rejects import RejectCounts
from tiny_audio.model.batch import Batch
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.oom import is_out_of_memory, release
from tiny_audio.train.pace import Data


class Shared:
    """One stream of batches with the encoder's frames, handed to several runs.

    Args:
        stream: of this process.
        encode: gives a batch its frames.
        runs: how many take each batch, in turns.
    """

    def __init__(self, stream: Data, encode: Callable[[Batch], Batch], runs: int) -> None:
        self.stream, self.encode, self.runs = stream, encode, runs
        self._copies: list[Iterator[Batch]] | None = None

    def copy(self, number: int) -> Iterator[Batch]:
        """The batches for one of the runs; kept until all have taken them."""
        if self._copies is None:
            self._copies = list(itertools.tee(self._encoded(), self.runs))
        return self._copies[number]

    def _encoded(self) -> Iterator[Batch]:
        for batch in self.stream:
            yield self.encode(replace(batch, epoch=self.stream.epoch))


class Lane:
    """What one run sees of the shared stream: the same batches with tokens for its projector."""

    def __init__(self, shared: Shared, number: int, model: SpeechModel) -> None:
        self.shared, self.number, self.model = shared, number, model

    @property
    def epoch(self) -> float:
        """Passes through the data."""
        return self.shared.stream.epoch

    @property
    def rejects(self) -> RejectCounts:
        """What was left out."""
        return self.shared.stream.rejects

    @property
    def usage(self) -> Any:
        """What was used of each source."""
        return self.shared.stream.usage

    def state_dict(self) -> dict[str, Any]:
        """Where the shared stream stands."""
        return self.shared.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the shared stream there; every lane brings the same."""
        self.shared.stream.load_state_dict(state)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shared.copy(self.number):
            prompt, audio_tokens = self.model.prompt, self.model.audio_tokens
            yield with_tokens(batch, prompt, audio_tokens, with_labels=True)


class EncodedOnce:
    """Runs the encoder of the first model for all."""

    def __init__(self, model: SpeechModel, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator

    def __call__(self, batch: Batch) -> Batch:
        """The batch with frames on the device; in halves where memory does not suffice."""
        try:
            with self.accelerator.autocast():
                frames, lengths = self.model.encode(
                    batch.waveform.to(self.model.device),
                    batch.waveform_lengths.to(self.model.device),
                )
            return replace(batch, frames=frames, frame_lengths=lengths)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        release()
        half = len(batch) // 2
        parts = [self(batch.rows(0, half)), self(batch.rows(half, len(batch)))]
        rows = [row for part in parts if part.frames is not None for row in part.frames]
        counts = [part.frame_lengths for part in parts if part.frame_lengths is not None]
        return replace(
            batch, frames=pad_sequence(rows, batch_first=True), frame_lengths=torch.cat(counts)
        )
