"""The one way from waveforms to text; transcription and evaluation both go through it.

    recordings ─► spans of at most one window ─► batches of like length ─► generate ─► recordings

Recordings come back in the order in which they went in. A batch that does not fit into memory is
halved and repeated, and so are those after it. S samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np

from tiny_audio.audio.io import SAMPLE_RATE, AudioInput, audio_blocks
from tiny_audio.audio.segment import split_long
from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.errors import AudioError, ConfigError, ModelError
from tiny_audio.infer.align import Word, align
from tiny_audio.infer.memory import in_parts, largest_batch, out_of_memory
from tiny_audio.infer.vad import VadOptions, split_speech
from tiny_audio.model.batch import Batch
from tiny_audio.model.generate import Hypothesis
from tiny_audio.model.speech import SpeechModel

K = TypeVar("K")
Watch = Callable[[Utterance, Sequence[int]], bool]

MIN_SPAN_SECONDS = 0.5  # a long recording is not cut into pieces shorter than this
MOST_READ_SECONDS = 1_800  # GROUP_BATCHES times as much is in memory at once, however large a batch
GROUP_BATCHES = 8  # batches' worth of recordings that are sorted by length together
AUTO = 0  # as a number of utterances: what memory allows
_MARGIN = 0.2  # seconds after a cut that may decide where it lies: how loud it is around it


@dataclass(frozen=True)
class Segment:
    """One stretch of a recording and its text."""

    start: float  # seconds
    end: float
    text: str
    tokens: int  # how many were decoded, the end token included
    logprob: float | None  # their mean log-probability, None if they were found by beam search
    finished: bool  # False where the text was cut off because it grew too long for the audio
    words: list[Word] = field(default_factory=list)  # with their times, if asked for
    no_speech_prob: float | None = None  # that nobody speaks, None for beam search
    temperature: float = 0.0  # at which it was sampled; 0: it was not


@dataclass(frozen=True)
class Recognition:
    """All that was recognised in one recording.

    work_seconds: its share of the wall time, loading and waiting included; the shares of all
    recordings add up to the time that the whole run took.
    """

    segments: list[Segment]
    seconds: float  # length of the recording
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
    word_timestamps: bool = False,
) -> Iterator[tuple[K, Recognition]]:
    """Recognise (key, waveform [S] float32 16 kHz) pairs; yields (key, Recognition) in order.

    Recordings are taken in groups of some batches' worth, whose spans are sorted by length and
    decoded in batches of at most `batch_seconds` of padded audio and `max_utterances` spans (0:
    what memory allows). Spans too short for a single audio token get no segment.

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
    decoder = Decoder(model, options, batch_seconds, max_utterances, word_timestamps)
    for group in _grouped(recordings, min(batch_seconds, MOST_READ_SECONDS)):
        keys = [key for key, _ in group]
        found = decoder.recognise([waveform for _, waveform in group])
        group.clear()  # the waveforms go before the next ones are read
        yield from zip(keys, found, strict=True)


@dataclass
class Decoder:
    """What stays the same from group to group, and what is learned on the way."""

    model: SpeechModel
    options: GenerationConfig
    batch_seconds: float
    max_utterances: int
    word_timestamps: bool
    clock: float = field(default_factory=time.perf_counter)  # when the last batch was done
    limit: float = math.inf  # padded seconds that are not known to be too much for memory

    def recognise(self, waveforms: list[np.ndarray]) -> list[Recognition]:
        """Recognise one group of waveforms [S]."""
        cut = [list(cut_clips(self.model, waveform)) for waveform in waveforms]
        found = self.decode([clip for clips in cut for _, clip in clips])
        return [
            Recognition(
                segments=[to_segment(start, clip, found[clip]) for start, clip in clips],
                seconds=len(waveform) / SAMPLE_RATE,
                work_seconds=sum(found[clip].work_seconds for _, clip in clips),
            )
            for waveform, clips in zip(waveforms, cut, strict=True)
        ]

    def decode(self, clips: list[Utterance], watch: Watch | None = None) -> dict[Utterance, Found]:
        """What is said in every clip; ModelError where a single one does not fit into memory.
        ``watch`` is told a clip's tokens after each step; where it is False, the clip is given up.
        """
        seconds, most = self.batch_seconds, self.max_utterances
        found: dict[Utterance, Found] = {}
        try:
            self.limit = in_parts(
                length_batches(clips, batch_seconds=seconds, max_utterances=most),
                seconds=lambda clip: clip.seconds,
                run=lambda batch: found.update(self._decode(batch, watch)),
                limit=self.limit,
            )
            return found
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise ModelError(
                f"A single clip does not fit in the memory of {self.model.device}: use a smaller "
                "model, --quantise int8, or another device."
            ) from None

    def _decode(self, clips: list[Utterance], watch: Watch | None) -> dict[Utterance, Found]:
        """What is said in every clip of one batch, and the clip's share of the time."""
        batch = prompt_batch(self.model, clips)
        told = None if watch is None else lambda row, ids: watch(clips[row], ids)
        hypotheses = self.model.generate(
            batch, self.options, attention=self.word_timestamps, watch=told
        )
        words = align(self.model, batch, hypotheses) if self.word_timestamps else [[]] * len(clips)
        before, self.clock = self.clock, time.perf_counter()
        share = (self.clock - before) / sum(clip.seconds for clip in clips)
        return {
            clip: Found(hypothesis, of_clip, share * clip.seconds)
            for clip, hypothesis, of_clip in zip(clips, hypotheses, words, strict=True)
        }


class Found(NamedTuple):
    """What was recognised in one clip."""

    hypothesis: Hypothesis
    words: list[Word]
    work_seconds: float


def to_segment(start: int, clip: Utterance, found: Found) -> Segment:
    """What was recognised in a clip that begins at a sample of its recording."""
    hypothesis, offset = found.hypothesis, start / SAMPLE_RATE
    return Segment(
        start=offset,
        end=(start + len(clip.waveform)) / SAMPLE_RATE,
        text=hypothesis.text,
        tokens=len(hypothesis.token_ids) + int(hypothesis.finished),
        logprob=hypothesis.logprob,
        finished=hypothesis.finished,
        words=[word.later(offset) for word in found.words],
        no_speech_prob=hypothesis.no_speech_prob,
        temperature=hypothesis.temperature,
    )


def _grouped(
    recordings: Iterable[tuple[K, np.ndarray]], batch_seconds: float
) -> Iterator[list[tuple[K, np.ndarray]]]:
    """Consecutive recordings: one batch at first, so that a text comes soon, then twice as much."""
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


@dataclass(frozen=True)
class Piece:
    """Where a span lies in its recording."""

    start: int  # samples
    last: bool  # no span of the recording comes after it
    error: str | None = None  # why the recording could not be read to its end; the span is empty


def read_pieces(
    source: AudioInput,
    rate: int | None,
    max_seconds: float,
    max_bytes: int | None = None,
    vad: VadOptions | None = None,
) -> Iterator[tuple[Piece, np.ndarray]]:
    """The spans [S] of one recording, in order; always at least one, and one that is the last.

    They are read as they are needed: hours take no memory. ``rate`` (of an array) and ``max_bytes``
    are those of ``load_audio``. ``vad``: only the stretches in which someone speaks.
    """
    start, held = 0, np.zeros(0, np.float32)
    try:
        blocks = audio_blocks(source, sample_rate=rate, max_bytes=max_bytes)
        if vad is not None:
            for start, span in split_speech(blocks, max_seconds, MIN_SPAN_SECONDS, vad):
                yield Piece(start, last=False), span
        else:
            for span in split_stream(blocks, max_seconds, MIN_SPAN_SECONDS):
                if len(held):
                    yield Piece(start, last=False), held
                start, held = start + len(held), span
    except AudioError as error:
        yield Piece(start, last=True, error=str(error)), np.zeros(0, np.float32)
    else:
        yield Piece(start, last=True), held


def split_stream(
    blocks: Iterable[np.ndarray], max_seconds: float, min_seconds: float
) -> Iterator[np.ndarray]:
    """The spans of ``split_long``, cut from blocks [S] that come one after the other."""
    reach = int((max_seconds + min_seconds + _MARGIN) * SAMPLE_RATE)
    waiting = np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        if len(waiting) < reach:
            continue
        cut = 0
        for start, end in split_long(waiting, max_seconds, min_seconds):
            if start + reach > len(waiting):  # what is still to come may move this cut
                break
            yield waiting[start:end]
            cut = end
        waiting = waiting[cut:]
    for start, end in split_long(waiting, max_seconds, min_seconds):
        yield waiting[start:end]


def join_pieces(found: Sequence[tuple[Piece, Recognition]]) -> Recognition:
    """What was recognised in the spans of a recording, as one."""

    def later(seconds: float, samples: int) -> float:
        return (samples + round(seconds * SAMPLE_RATE)) / SAMPLE_RATE

    return Recognition(
        segments=[
            replace(
                s,
                start=later(s.start, piece.start),
                end=later(s.end, piece.start),
                words=[word.later(piece.start / SAMPLE_RATE) for word in s.words],
            )
            for piece, part in found
            for s in part.segments
        ],
        seconds=later(found[-1][1].seconds, found[-1][0].start),
        work_seconds=sum(part.work_seconds for _, part in found),
    )
