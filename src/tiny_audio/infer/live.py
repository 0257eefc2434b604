"""Live audio to text: words as they are heard, lines when they are complete.

    blocks ─► chunks of 32 ms ─► who speaks? ─► the line so far ─► recognised again and again

A line begins with speech and ends with a pause, or where it has become long. It is recognised anew
every `interval`; words on which two hypotheses in a row agree (LocalAgreement-2, Macháček et al.
2023, arXiv:2307.14743), and which end some time ago, settle. Nothing is recognised in silence, and
what lies before the line is forgotten. S samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.config import EvaluationConfig, GenerationConfig
from tiny_audio.errors import ConfigError
from tiny_audio.infer.align import Word
from tiny_audio.infer.recognise import Recognition, recognise
from tiny_audio.infer.vad import CHUNK, VadOptions, live_detector
from tiny_audio.model.speech import SpeechModel

INTERVAL = 0.3  # seconds of audio between two hypotheses, more where they take long
MAX_SECONDS = 20.0  # of a line
LIVE_VAD = VadOptions(min_silence_duration_ms=600, speech_pad_ms=300)
_SETTLES = 0.5  # seconds that a word lies back before it settles
_SHARE = 0.5  # of the time that hypotheses may take
_HYSTERESIS = 0.15  # speech goes on at so much less than the probability at which it begins

Decode = Callable[[np.ndarray], Recognition]


@dataclass(frozen=True)
class LiveUpdate:
    """What is newly known of the line that is being spoken; times in seconds of the stream.

    The `settled` of a line's updates, joined, are its text; none is ever taken back.
    """

    settled: str  # what settles now; begins with a blank where it continues the line
    partial: str  # what is heard after it and may still change; replaces the one before
    start: float  # of what settles now
    end: float
    final: bool  # the line is complete
    text: str  # all that has settled of the line
    words: list[Word] = field(default_factory=list)  # of a line that is complete


class LiveTranscriber:
    """One stream of audio to text. `feed` takes what was heard, in blocks of any length.

    Args:
        decode: recognises a stretch [S] of at most `max_seconds`, with word times; by default
            `model` does. It decides how long `feed` takes.
        vad: what counts as speech; a pause of `min_silence_duration_ms` ends a line. silero-vad
            tells it where it is installed, otherwise loudness.
        interval: seconds of audio between two hypotheses, more where they take long.
        max_seconds: of a line, at most the model's window. Past half of it any short pause ends it.
        clock: measures how long hypotheses take, so that a slow machine makes fewer of them. None:
            at every `interval` one, whatever it takes, so that the text depends on the audio alone.
    """

    def __init__(
        self,
        model: SpeechModel,
        *,
        decode: Decode | None = None,
        vad: VadOptions = LIVE_VAD,
        interval: float = INTERVAL,
        max_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] | None = time.perf_counter,
    ) -> None:
        self._decode = decode or _decoder(model)
        self._probability = live_detector()
        self._threshold, self._clock, self._interval = vad.threshold, clock, _chunks(interval)
        self._pad = _chunks(vad.speech_pad_ms / 1000)
        self._silence = max(1, _chunks(vad.min_silence_duration_ms / 1000))
        self._longest = max(2, _chunks(min(max_seconds, model.window_seconds)))
        self._samples = 0
        self._rest = np.zeros(0, np.float32)  # less than a chunk
        # From here on in chunks of 32 ms.
        self._position = 0  # of the stream's end
        self._held: list[np.ndarray] = []  # the line; what comes before it while nobody speaks
        self._next = 0  # when the next hypothesis is due
        self._begin_line(None)

    def _begin_line(self, speech_end: int | None) -> None:
        self._speech_end = speech_end  # None: nobody speaks
        self._decoded = 0  # how far the last hypothesis reached
        self._settled: list[Word] = []
        self._tail: list[Word] = []  # of the last hypothesis, after what has settled

    @property
    def seconds(self) -> float:
        """How much was fed."""
        return self._samples / SAMPLE_RATE

    @property
    def line_start(self) -> float | None:
        """Where the line that is being spoken begins; None while nobody speaks."""
        return None if self._speech_end is None else _seconds(self._begun)

    @property
    def _begun(self) -> int:
        return self._position - len(self._held)

    @property
    def _heard(self) -> int:
        """Where the line ends as far as is known: now, or a little after the last speech."""
        assert self._speech_end is not None
        return min(self._position, self._speech_end + self._pad)

    def feed(self, samples: np.ndarray) -> list[LiveUpdate]:
        """Hear the next samples [S], float32 at 16 kHz; what is not finite counts as silence."""
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            kind = f"{samples.dtype} {list(samples.shape)}"
            raise ConfigError(f"live audio: blocks must be float samples [S] of 16 kHz, not {kind}")
        self._samples += len(samples)
        return self._feed(np.nan_to_num(samples.astype(np.float32), posinf=0.0, neginf=0.0))

    def finish(self) -> list[LiveUpdate]:
        """The stream has ended: the line that was being spoken, if any."""
        missing = -len(self._rest) % CHUNK
        return [*self._feed(np.zeros(missing, np.float32)), *self.commit()]

    def commit(self) -> list[LiveUpdate]:
        """End the line here; nothing if nobody speaks."""
        return [] if self._speech_end is None else [self._end_line()]

    def clear(self) -> None:
        """Forget the line that is being spoken."""
        self._held.clear()
        self._begin_line(None)

    def _feed(self, samples: np.ndarray) -> list[LiveUpdate]:
        waiting = np.concatenate([self._rest, samples])
        chunks = waiting[: len(waiting) // CHUNK * CHUNK].reshape(-1, CHUNK)
        self._rest = waiting[chunks.size :].copy()
        found: list[LiveUpdate] = []
        for after, chunk in zip(range(len(chunks))[::-1], chunks, strict=True):
            found += self._hear(chunk.copy(), newest=after == 0)
        return found

    def _hear(self, chunk: np.ndarray, newest: bool) -> list[LiveUpdate]:
        """Hear one chunk; with a clock there are no hypotheses before the newest one."""
        self._held.append(chunk)
        self._position += 1
        going_on = self._speech_end is not None
        if self._probability(chunk) >= self._threshold - _HYSTERESIS * going_on:
            self._speech_end = self._position
            if not going_on:
                self._next = self._position + self._interval
        if self._speech_end is None:
            del self._held[: max(0, len(self._held) - self._pad)]
            return []
        silence, long = self._position - self._speech_end, len(self._held) > self._longest // 2
        if silence >= (min(self._silence, self._pad) if long else self._silence):
            return [self._end_line()]
        if len(self._held) >= self._longest:
            return [self._cut_line()]
        pausing = 0 < silence < self._pad  # a hypothesis is better made at the end of it
        due = self._position >= self._next and self._heard > self._decoded and not pausing
        if not due or not (newest or self._clock is None):
            return []
        before, words = self._tail, self._recognise()
        sure, agreed = _seconds(self._heard) - _SETTLES, 0
        for word, same in zip(words, before, strict=False):
            if word.text != same.text or word.end > sure:
                break
            agreed += 1
        update = self._settle(words, agreed)
        return [update] if update.settled or _text(before) != update.partial else []

    def _recognise(self) -> list[Word]:
        """Recognise the line so far: its words after what has settled."""
        start = self._clock() if self._clock else 0.0
        found = self._decode(np.concatenate(self._held[: self._heard - self._begun]))
        took = self._clock() - start if self._clock else 0.0
        self._next = self._position + max(self._interval, _chunks(took / _SHARE))
        self._decoded = self._heard
        begun = _seconds(self._begun)
        words = [word.later(begun) for segment in found.segments for word in segment.words]
        words = words[_continuation(self._settled, words) :]
        first, last = self._settled[-1].end if self._settled else 0.0, self.seconds
        return [
            replace(w, start=_within(w.start, first, last), end=_within(w.end, first, last))
            for w in words
        ]

    def _settle(self, words: list[Word], count: int, final: bool = False) -> LiveUpdate:
        """The first words settle; the others are what may still change."""
        begun = self._settled[-1].end if self._settled else _seconds(self._begun)
        new, self._tail = words[:count], words[count:]
        blank = " " if new and self._settled else ""
        self._settled = [*self._settled, *new]
        return LiveUpdate(
            settled=blank + _text(new),
            partial="" if final else _text(self._tail),
            start=new[0].start if new else begun,
            end=new[-1].end if new else begun,
            final=final,
            text=_text(self._settled),
            words=self._settled if final else [],
        )

    def _end_line(self) -> LiveUpdate:
        """All that was heard settles."""
        words = self._recognise() if self._heard > self._decoded else self._tail
        update = self._settle(words, len(words), final=True)
        self._held = self._held[self._heard - self._begun :]
        self._begin_line(None)
        return update

    def _cut_line(self) -> LiveUpdate:
        """End a line that is too long after the last word that can settle; go on with the rest."""
        words, cut = self._recognise(), self._position
        sure, middle = _seconds(cut) - _SETTLES, _seconds(cut - self._longest // 2)
        count = sum(word.end <= sure for word in words)
        known = [*self._settled, *words[:count]]
        if known and known[-1].end >= middle and count < len(words):
            cut = _chunks((known[-1].end + words[count].start) / 2)
        else:
            count = len(words)
        update = self._settle(words, count, final=True)
        self._held = self._held[max(0, cut - self._begun) :]
        tail = self._tail
        self._begin_line(self._speech_end)
        self._tail = tail
        return update


def _decoder(model: SpeechModel) -> Decode:
    def decode(stretch: np.ndarray) -> Recognition:
        ((_, found),) = recognise(
            model,
            [(None, stretch)],
            options=GenerationConfig(),
            batch_seconds=EvaluationConfig.batch_seconds,
            max_utterances=1,
            word_timestamps=True,
        )
        return found

    return decode


def _continuation(settled: list[Word], words: list[Word]) -> int:
    """How many words of a hypothesis are what has settled: those that are most like it (least word
    edit distance), and of equally good numbers the one whose end lies closest in time."""
    distance = list(range(len(words) + 1))  # from what has settled so far to the first k words
    for old in settled:
        before, distance = distance, [distance[0] + 1]
        for k, new in enumerate(words):
            edits = (before[k] + (old.text != new.text), before[k + 1] + 1, distance[k] + 1)
            distance.append(min(edits))
    ends = [0.0, *(word.end for word in words)]
    last = settled[-1].end if settled else 0.0
    return min(range(len(ends)), key=lambda k: (distance[k], abs(ends[k] - last)))


def _text(words: list[Word]) -> str:
    return " ".join(word.text for word in words)


def _within(seconds: float, first: float, last: float) -> float:
    return min(max(seconds, first), last)


def _chunks(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / CHUNK)


def _seconds(chunks: int) -> float:
    return chunks * CHUNK / SAMPLE_RATE
