"""What is counted over a set, in memory that does not grow with its audio."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tiny_audio.data.markers import Markers, Policy, odd_characters
from tiny_audio.data.overlap import EvaluationSet, Repeats, audio_print, text_print
from tiny_audio.data.utterance import EXAMPLES, Utterance
from tiny_audio.model.build import Lengths

MOST_WORDS = 1_000_000  # different ones that are counted; later new ones are not
_HOUR = 3600.0


class Histogram:
    """Counts of values from 0 on in bins of equal width; the last holds all that is greater."""

    def __init__(self, width: float, bins: int) -> None:
        self.width, self.counts = width, np.zeros(bins, np.int64)
        self.total = 0.0
        self.least, self.most = float("inf"), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[min(int(value / self.width), len(self.counts) - 1)] += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)

    def quantile(self, share: float) -> float:
        """The value below which this share of them lies, to the width of a bin."""
        below = np.cumsum(self.counts)
        place = int(np.searchsorted(below, share * below[-1]))
        return float(min(max((place + 0.5) * self.width, self.least), self.most))

    def summary(self) -> dict[str, Any]:
        """Plain values; counts up to the last that is not 0."""
        n = int(self.counts.sum())
        if not n:
            return {"count": 0, "bin_width": self.width, "bins": []}
        used = int(self.counts.nonzero()[0][-1]) + 1
        return {
            "count": n,
            "mean": self.total / n,
            "min": self.least,
            "p01": self.quantile(0.01),
            "median": self.quantile(0.5),
            "p99": self.quantile(0.99),
            "max": self.most,
            "bin_width": self.width,
            "bins": self.counts[:used].tolist(),
        }


class Extremes:
    """The utterances with the smallest and the greatest values."""

    def __init__(self) -> None:
        self._low: list[tuple[float, str, str]] = []
        self._high: list[tuple[float, str, str]] = []

    def add(self, value: float, utterance: Utterance) -> None:
        """Offer an utterance."""
        for heap, rank in ((self._low, -value), (self._high, value)):
            if len(heap) < EXAMPLES:
                heapq.heappush(heap, (rank, utterance.id, utterance.text))
            elif rank > heap[0][0]:
                heapq.heapreplace(heap, (rank, utterance.id, utterance.text))

    def summary(self) -> dict[str, Any]:
        """Plain values, the most extreme first."""
        return {
            name: [{"value": sign * v, "id": i, "text": t} for v, i, t in sorted(heap)[::-1]]
            for name, heap, sign in (("lowest", self._low, -1), ("highest", self._high, 1))
        }


class Tokens:
    """Audio and label tokens, and how near they come to the decoder's context."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self.audio = self.label = 0
        self.longest, self.longest_id, self.over = 0, "", 0

    def add(self, utterance: Utterance) -> None:
        """Count an utterance's."""
        n_audio = self._lengths.audio_tokens(len(utterance.waveform))
        ids, n_prompt = self._lengths.prompt.training(n_audio, utterance.text)
        self.audio += n_audio
        self.label += len(ids) - n_prompt
        if len(ids) > self.longest:
            self.longest, self.longest_id = len(ids), utterance.id
        self.over += self._lengths.context is not None and len(ids) > self._lengths.context

    def summary(self, seconds: float) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self._lengths.name,
            "audio_tokens_per_second": self.audio / seconds if seconds else 0.0,
            "label_tokens_per_second": self.label / seconds if seconds else 0.0,
            "longest_sequence": self.longest,
            "longest_id": self.longest_id,
            "context": self._lengths.context,
            "over_context": self.over,
        }


class Tally:
    """All that is counted over the usable utterances of a set."""

    def __init__(self, lengths: Lengths, tests: Sequence[EvaluationSet]) -> None:
        self.durations, self.rates = Histogram(0.1, 1200), Histogram(0.25, 240)
        self.extremes, self.tokens = Extremes(), Tokens(lengths)
        self.markers, self.policy, self.repeats = Markers(), Policy(), Repeats()
        self.tests = list(tests)
        self.words: Counter[str] = Counter()
        self.characters: Counter[str] = Counter()
        self.speakers: Counter[str] = Counter()
        self.sources: dict[str, list[float]] = {}  # utterances, seconds
        self.running_words = 0

    def add(self, utterance: Utterance, number: int) -> None:
        """Count an utterance; `number` is its place among all records that were read."""
        label, seconds = utterance.text, utterance.seconds
        self.durations.add(seconds)
        rate = len(label) / seconds
        self.rates.add(rate)
        self.extremes.add(rate, utterance)
        self.tokens.add(utterance)
        self.markers.add(utterance.id, str(utterance.extra["transcript"]), label)
        self.policy.add(label)
        self.characters.update(label)
        audio, (text, _) = audio_print(utterance.waveform), text_print(label)
        self.repeats.add(utterance, number, audio, text)
        for test in self.tests:
            test.look_for(utterance, audio, text)
        words = [word for w in label.casefold().split() if (word := w.strip(".,?!;:\"'-"))]
        self.running_words += len(words)
        self.words.update(w for w in words if w in self.words or len(self.words) < MOST_WORDS)
        if utterance.speaker is not None:
            self.speakers[f"{utterance.source}/{utterance.speaker}"] += 1
        source = self.sources.setdefault(utterance.source, [0, 0.0])
        source[0] += 1
        source[1] += seconds

    def vocabulary(self) -> dict[str, Any]:
        """Words and characters of the labels, as plain values."""
        once = sum(1 for n in self.words.values() if n == 1)
        return {
            "running_words": self.running_words,
            "different_words": len(self.words),
            "words_seen_once": once,
            "all_words_counted": len(self.words) < MOST_WORDS,
            "most_frequent_words": dict(self.words.most_common(50)),
            "characters": dict(self.characters.most_common()),
            "odd_characters": odd_characters(self.characters),
        }

    def voices(self) -> dict[str, Any] | None:
        """Speakers, None where the set names none."""
        if not self.speakers:
            return None
        known = self.speakers.total()
        return {
            "speakers": len(self.speakers),
            "utterances_with_speaker": known,
            "most_utterances": dict(self.speakers.most_common(10)),
        }

    def hours(self) -> dict[str, Any]:
        """Utterances and hours, in all and by source, as plain values."""
        return {
            "utterances": int(self.durations.counts.sum()),
            "hours": self.durations.total / _HOUR,
            "sources": {
                name: {"utterances": int(n), "hours": seconds / _HOUR}
                for name, (n, seconds) in self.sources.items()
            },
        }
