"""What an evaluation asks of a model, and the answer of our own models.

Legend: S samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from tiny_audio.config import GenerationConfig
from tiny_audio.infer.recognise import Recognition, recognise
from tiny_audio.model.speech import SpeechModel

K = TypeVar("K")

TOO_SHORT = "too_short"  # for a single audio token: a failure, not an empty hypothesis


@dataclass(frozen=True)
class Answer:
    """What a model made of one recording, or why it made nothing of it.

    seconds: of audio. work_seconds: its share of the wall time, loading and waiting included.
    logprob: mean log-probability of a token, tokens: their number, None where not known.
    finished: False where the text was cut off. error, message: see `Record`.
    """

    text: str
    seconds: float
    work_seconds: float
    logprob: float | None = None
    tokens: int | None = None
    finished: bool = True
    error: str | None = None
    message: str | None = None


class Listener(Protocol):
    """A model that can be evaluated."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def listen(self, recordings: Iterable[tuple[K, np.ndarray]]) -> Iterator[tuple[K, Answer]]:
        """Answers to (key, waveform [S] float32 16 kHz) pairs, in order.

        The same recordings give the same answers, however they are timed.
        """
        ...


@dataclass(frozen=True)
class SpeechListener:
    """One of our own models.

    batch_seconds, max_utterances: padded audio and clips in one batch. generation: how text is
    decoded.
    """

    model: SpeechModel
    generation: GenerationConfig
    batch_seconds: float
    max_utterances: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def listen(self, recordings: Iterable[tuple[K, np.ndarray]]) -> Iterator[tuple[K, Answer]]:
        """Answers in order; a recording too short for one audio token is a failure."""

        def keyed() -> Iterator[tuple[tuple[K, bool], np.ndarray]]:
            for key, waveform in recordings:
                yield (key, self.model.audio_tokens(len(waveform)) > 0), waveform

        for (key, heard), found in recognise(
            self.model,
            keyed(),
            options=self.generation,
            batch_seconds=self.batch_seconds,
            max_utterances=self.max_utterances,
        ):
            yield key, _answer(found, heard)


def too_short(seconds: float, work_seconds: float) -> Answer:
    """The failure of a recording in which the model hears nothing for its length."""
    message = f"{seconds:.3f} s are too short for the model"
    return Answer("", seconds, work_seconds, error=TOO_SHORT, message=message)


def _answer(found: Recognition, heard: bool) -> Answer:
    if not heard:
        return too_short(found.seconds, found.work_seconds)
    return Answer(
        text=found.text,
        seconds=found.seconds,
        work_seconds=found.work_seconds,
        logprob=found.logprob,
        tokens=sum(segment.tokens for segment in found.segments),
        finished=found.finished,
    )
