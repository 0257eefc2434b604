"""The one way from waveforms to text; transcription and evaluation both go through it.

    recordings ─► spans of at most one window ─► batches of like length ─► generate ─► recordings

Recordings come back in the order in which they went in, whatever order the model saw their
spans in. Legend: S samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tiny_audio.audio.io import SAMPLE_RATE
from tiny_audio.audio.segment import split_long
from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.infer.batch_size import AUTO, in_parts, largest_batch, out_of_memory
from tiny_audio.model.batch import Batch
from tiny_audio.model.speech import SpeechModel

K = TypeVar("K")

MIN_SPAN_SECONDS = 0.5  # a long recording is not cut into pieces shorter than this
MOST_READ_SECONDS = 1_800  # GROUP_BATCHES times as much is in memory at once, however large a batch
GROUP_BATCHES = 8  # batches' worth of recordings that are sorted by length together


@dataclass(frozen=True)
class Segment:
    """One stretch of a recording and its text.

    start, end: seconds. tokens: how many were decoded, the end token included. logprob: their mean
    log-probability, None if they were found by beam search. finished: False where the text was
    cut off because it grew too long for the audio.
    """

    start: float
    end: float
    text: str
    tokens: int
    logprob: float | None
    finished: bool


@dataclass(frozen=True)
class Recognition:
    """All that was recognised in one recording.

    seconds: its length. work_seconds: its share of the wall time, loading and waiting included,
    so that the shares of all recordings add up to the time that the whole run took.
    """

    segments: list[Segment]
    seconds: float
    work_seconds: float

    @property
    def text(self) -> str:
        """The segments' texts, joined by one blank."""
        return join_texts(segment.text for segment in self.segments)

    @property
    def logprob(self) -> float | None:
        """Mean log-probability of all tokens, None where it is not known."""
        known = [(s.logprob, s.tokens) for s in self.segments if s.logprob is not None]
        tokens = sum(n for _, n in known)
        return sum(logprob * n for logprob, n in known) / tokens if tokens else None

    @property
    def finished(self) -> bool:
        """Whether every segment's text came to its own end."""
        return all(segment.finished for segment in self.segments)


def recognise(
    model: SpeechModel,
    recordings: Iterable[tuple[K, np.ndarray]],
    *,
    options: GenerationConfig,
    batch_seconds: float,
    max_utterances: int,
    on_audio: Callable[[float], None] | None = None,
) -> Iterator[tuple[K, Recognition]]:
    """Recognise (key, waveform [S] float32 16 kHz) pairs; yields (key, Recognition) in order.

    Recordings are taken in groups of some batches' worth, whose spans are sorted by length and
    decoded in batches of at most `batch_seconds` of padded audio and `max_utterances` spans, or,
    with `max_utterances` 0, of what memory allows. A batch that does not fit is halved.
    Spans too short for a single audio token get no segment. `on_audio` is told the seconds of
    every batch that is done.

    Raises:
        ConfigError: a batch could hold nothing. ModelError: a single span does not fit into memory.
    """
    if max_utterances < 0 or not batch_seconds > 0:
        raise ConfigError(
            f"batches of {max_utterances} utterances and {batch_seconds:g} s cannot be: both must "
            "be above 0, or the utterances 'auto' for what memory allows"
        )
    if max_utterances == AUTO:
        batch_seconds, max_utterances = largest_batch(model)
    work = _Work(model, options, batch_seconds, max_utterances, on_audio)
    for group in _groups(recordings, min(batch_seconds, MOST_READ_SECONDS)):
        keys = [key for key, _ in group]
        found = work.recognise([waveform for _, waveform in group])
        group.clear()  # the waveforms go before the next ones are read
        yield from zip(keys, found, strict=True)


@dataclass
class _Span:
    """A stretch of a recording on its way through the model."""

    start: int  # samples from the recording's beginning
    clip: Utterance  # its waveform is a view, not a copy
    segment: Segment | None = None
    work_seconds: float = 0.0


@dataclass
class _Work:
    """What stays the same from group to group, and the time at which the last batch was done."""

    model: SpeechModel
    options: GenerationConfig
    batch_seconds: float
    max_utterances: int
    on_audio: Callable[[float], None] | None
    clock: float = field(default_factory=time.perf_counter)
    fitting: float = math.inf  # padded seconds that are not known to be too much for memory

    def recognise(self, waveforms: list[np.ndarray]) -> list[Recognition]:
        """Recognise one group of waveforms [S]."""
        cut = [[_Span(*piece) for piece in cut_clips(self.model, w)] for w in waveforms]
        of_clip = {span.clip: span for spans in cut for span in spans}
        batches = length_batches(
            list(of_clip), batch_seconds=self.batch_seconds, max_utterances=self.max_utterances
        )
        try:
            self.fitting = in_parts(
                [[of_clip[clip] for clip in clips] for clips in batches],
                seconds=lambda span: span.clip.seconds,
                run=self._decode,
                limit=self.fitting,
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise ModelError(
                f"A single clip does not fit in the memory of {self.model.device}: use a smaller "
                "model, --quantise int8, or another device."
            ) from None
        return [
            Recognition(
                segments=[span.segment for span in spans if span.segment is not None],
                seconds=len(waveform) / SAMPLE_RATE,
                work_seconds=sum(span.work_seconds for span in spans),
            )
            for waveform, spans in zip(waveforms, cut, strict=True)
        ]

    def _decode(self, batch: list[_Span]) -> None:
        """Give every span of one batch its segment and its share of the time."""
        seconds = sum(span.clip.seconds for span in batch)
        clips = prompt_batch(self.model, [span.clip for span in batch])
        hypotheses = self.model.generate(clips, self.options)
        before, self.clock = self.clock, time.perf_counter()
        for span, hypothesis in zip(batch, hypotheses, strict=True):
            span.segment = Segment(
                start=span.start / SAMPLE_RATE,
                end=(span.start + len(span.clip.waveform)) / SAMPLE_RATE,
                text=hypothesis.text,
                tokens=len(hypothesis.token_ids) + int(hypothesis.finished),
                logprob=hypothesis.logprob,
                finished=hypothesis.finished,
            )
            span.work_seconds = (self.clock - before) * span.clip.seconds / seconds
        if self.on_audio is not None:
            self.on_audio(seconds)


def cut_clips(model: SpeechModel, waveform: np.ndarray) -> Iterator[tuple[int, Utterance]]:
    """Cut a waveform [S] into what the model can hear at once: (first sample, clip), in order."""
    for start, end in split_long(waveform, model.window_seconds, MIN_SPAN_SECONDS):
        if model.audio_tokens(end - start) > 0:
            yield start, Utterance(id="", waveform=waveform[start:end], text="", source="")


def prompt_batch(model: SpeechModel, clips: Sequence[Utterance]) -> Batch:
    """Clips as one batch for generation, on the model's device."""
    batch = collate(clips, model.prompt, model.audio_tokens, with_labels=False)
    return batch.to(model.device)


def join_texts(texts: Iterable[str]) -> str:
    """Texts of consecutive spans as one text: stripped, empty ones left out, one blank between."""
    return " ".join(stripped for text in texts if (stripped := text.strip()))


def _groups(
    recordings: Iterable[tuple[K, np.ndarray]], batch_seconds: float
) -> Iterator[list[tuple[K, np.ndarray]]]:
    """Consecutive recordings: one batch's worth first, so that the first text comes soon, then
    twice as much every time, up to GROUP_BATCHES."""
    group: list[tuple[K, np.ndarray]] = []
    seconds, patience = 0.0, 1
    for key, waveform in recordings:
        group.append((key, waveform))
        seconds += len(waveform) / SAMPLE_RATE
        del waveform  # or it would live until the next is there
        if seconds >= patience * batch_seconds:
            yield group
            group, seconds, patience = [], 0.0, min(2 * patience, GROUP_BATCHES)
    yield group
