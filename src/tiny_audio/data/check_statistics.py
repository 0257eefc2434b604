"""What `data check` counts over the usable utterances of a set, and what deserves a look."""

from __future__ import annotations

import heapq
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from tiny_audio.data.overlap import EvaluationSet, Repeats, audio_print, text_print
from tiny_audio.data.records import Utterance
from tiny_audio.data.rejects import EXAMPLES
from tiny_audio.model.build import Lengths

MOST_WORDS = 1_000_000  # different words that are counted; later new ones are not
MOST_MARKERS = 1_000

_BRACKETS = r"<[^<>]{0,60}>|\[[^\[\]]{0,60}\]|\([^()]{0,60}\)|\{[^{}]{0,60}\}"
# Searched for in labels, after cleaning: what is found here would be learned.
MARKERS: dict[str, re.Pattern[str]] = {
    "bracket": re.compile(rf"{_BRACKETS}|[<>\[\](){{}}]"),
    "repeated sign": re.compile(r"([^\w\s.])\1{2,}|\.{4,}|_{2,}"),
    "repeated letter": re.compile(r"([^\W\d_])\1{3,}", re.IGNORECASE),
    "repeated word": re.compile(r"\b(\w+)(?:\W+\1\b){3,}", re.IGNORECASE),
    "placeholder": re.compile(
        r"^(?:nan|null|none|n/a|unk|todo|tbd)$|(?<!\w)(?:unk|xxx+|yyy+|www)(?!\w)", re.IGNORECASE
    ),
    "markup": re.compile(r"&(?:\w{2,8}|#\d{1,6});|https?://\S*|\bwww\.\S*|\\[ntr\"]|[*~^|\\]"),
    "encoding": re.compile("\N{REPLACEMENT CHARACTER}|Ã[\x80-¿]|â€.?|Â[\x80-¿ ]"),
}
_PLAIN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789 '.,?!-")
_RARE = 1e-4  # share of all letters below which a letter is odd
T = TypeVar("T")

_FEW = 0.02  # a share of labels below this, or above 1 less this, is no second way of writing
_CASES = ("lower case", "capitals", "mixed case")


class Statistics:
    """All that is counted: `add` each utterance, then `report`.

    Args:
        lengths: audio and label tokens of the model that is to learn from the set.
        tests: evaluation sets that should share nothing with it.
    """

    def __init__(self, lengths: Lengths, tests: Sequence[EvaluationSet]) -> None:
        self._lengths, self._tests = lengths, tests
        self.markers, self.repeats = Markers(), Repeats()
        self._seconds, self._rates = array("d"), array("d")
        self._slowest: list[tuple[float, str, str]] = []
        self._fastest: list[tuple[float, str, str]] = []
        self._audio_tokens = self._label_tokens = self._over_context = 0
        self._longest = (0, "")  # tokens, id
        self._style: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._running_words = 0
        self._characters: Counter[str] = Counter()
        self._speakers: Counter[str] = Counter()
        self._sources: dict[str, list[float]] = {}  # utterances, seconds

    @property
    def hours(self) -> float:
        """Hours of usable audio."""
        return sum(seconds for _, seconds in self._sources.values()) / 3600

    def add(self, utterance: Utterance, number: int) -> None:
        """Count an utterance; `number` is its position among all records that were read."""
        label, seconds = utterance.text, utterance.seconds
        rated = (len(label) / seconds, utterance.id, label)
        self._seconds.append(seconds)
        self._rates.append(rated[0])
        self._slowest = heapq.nsmallest(EXAMPLES, [*self._slowest, rated])
        self._fastest = heapq.nlargest(EXAMPLES, [*self._fastest, rated])
        source = self._sources.setdefault(utterance.source, [0, 0.0])
        source[0] += 1
        source[1] += seconds
        if utterance.speaker is not None:
            self._speakers[f"{utterance.source}/{utterance.speaker}"] += 1
        self._add_label(label)
        self._add_tokens(utterance)
        self.markers.add(utterance.id, str(utterance.extra["transcript"]), label)
        audio, (text, _) = audio_print(utterance.waveform), text_print(label)
        self.repeats.add(utterance, number, audio, text)
        for test in self._tests:
            test.look_for(utterance, audio, text)

    def _add_label(self, label: str) -> None:
        self._style.update(label_style(label))
        self._characters.update(label)
        words = [word for w in label.casefold().split() if (word := w.strip(".,?!;:\"'-"))]
        self._running_words += len(words)
        _count(self._words, words, MOST_WORDS)

    def _add_tokens(self, utterance: Utterance) -> None:
        n_audio = self._lengths.audio_tokens(len(utterance.waveform))
        ids, n_prompt = self._lengths.prompt.training(n_audio, utterance.text)
        self._audio_tokens += n_audio
        self._label_tokens += len(ids) - n_prompt
        if len(ids) > self._longest[0]:
            self._longest = (len(ids), utterance.id)
        self._over_context += self._lengths.context is not None and len(ids) > self._lengths.context

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        extremes = (("lowest", self._slowest), ("highest", self._fastest))
        rates = histogram(self._rates, 0.25, 240) | {
            "extremes": {
                name: [{"value": rate, "id": i, "text": text} for rate, i, text in found]
                for name, found in extremes
            }
        }
        return {
            "utterances": len(self._seconds),
            "hours": self.hours,
            "sources": {
                name: {"utterances": int(count), "hours": seconds / 3600}
                for name, (count, seconds) in self._sources.items()
            },
            "seconds": histogram(self._seconds, 0.1, 1200),
            "characters_per_second": rates,
            "vocabulary": self._vocabulary(),
            "labels": {
                "case": {k: n for k, n in self._style.most_common() if k in _CASES},
                "punctuated": self._style["punctuated"],
                "with_digits": self._style["with digits"],
                "labels": len(self._seconds),
            },
            "markers": self.markers.summary(),
            "overlap": [test.summary() for test in self._tests],
            "tokens": self._tokens(),
            "speakers": {
                "speakers": len(self._speakers),
                "utterances_with_speaker": self._speakers.total(),
                "most_utterances": dict(self._speakers.most_common(10)),
            }
            if self._speakers
            else None,
        }

    def _vocabulary(self) -> dict[str, Any]:
        return {
            "running_words": self._running_words,
            "different_words": len(self._words),
            "words_seen_once": sum(1 for n in self._words.values() if n == 1),
            "all_words_counted": len(self._words) < MOST_WORDS,
            "most_frequent_words": dict(self._words.most_common(50)),
            "characters": dict(self._characters.most_common()),
            "odd_characters": odd_characters(self._characters),
        }

    def _tokens(self) -> dict[str, Any]:
        seconds = max(3600 * self.hours, 1e-9)
        return {
            "model": self._lengths.name,
            "audio_tokens_per_second": self._audio_tokens / seconds,
            "label_tokens_per_second": self._label_tokens / seconds,
            "longest_sequence": self._longest[0],
            "longest_id": self._longest[1],
            "context": self._lengths.context,
            "over_context": self._over_context,
        }


def histogram(values: Sequence[float], width: float, bins: int) -> dict[str, Any]:
    """Quantiles, and counts in bins of a width from 0 on; the last holds all that is greater."""
    if not len(values):
        return {"count": 0, "bin_width": width, "bins": []}
    array = np.asarray(values)
    low, median, high = np.quantile(array, (0.01, 0.5, 0.99)).tolist()
    return {
        "count": len(array),
        "mean": float(array.mean()),
        "min": float(array.min()),
        "p01": low,
        "median": median,
        "p99": high,
        "max": float(array.max()),
        "bin_width": width,
        "bins": np.bincount(np.minimum(array / width, bins - 1).astype(int)).tolist(),
    }


def label_style(label: str) -> list[str]:
    """How a label is written: its case where it has several letters, punctuated, with digits."""
    letters = [c for c in label if c.isalpha() and c.lower() != c.upper()]
    found: list[str] = []
    if len(letters) > 1:
        upper = sum(c.isupper() for c in letters)
        found.append({0: "lower case", len(letters): "capitals"}.get(upper, "mixed case"))
    found += ["punctuated"] * any(c in ",.?!;:" for c in label)
    return found + ["with digits"] * any(c.isdigit() for c in label)


class Markers:
    """Notes that cleaning removed from transcripts, and signs left in labels that nobody said."""

    def __init__(self) -> None:
        self.removed: Counter[str] = Counter()
        self.left: Counter[tuple[str, str]] = Counter()  # (kind, mark) -> utterances
        self._examples: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._by_kind: Counter[str] = Counter()
        self._utterances = 0

    def add(self, utterance_id: str, transcript: str, label: str) -> None:
        """Look through a transcript as its source has it, and the label made of it."""
        notes = {match[0].casefold() for match in re.finditer(_BRACKETS, transcript)}
        gone = {note for note in notes if note not in label.casefold()}
        _count(self.removed, gone, MOST_MARKERS)
        found = {
            (kind, match[0].casefold())
            for kind, pattern in MARKERS.items()
            for match in pattern.finditer(label)
        }
        self._utterances += bool(found)
        self._by_kind.update({kind for kind, _ in found})
        for key in _count(self.left, found, MOST_MARKERS):
            examples = self._examples.setdefault(key, [])
            if len(examples) < EXAMPLES:
                examples.append({"id": utterance_id, "text": label[:200]})

    def summary(self) -> dict[str, Any]:
        """Plain values, the most frequent first."""
        left = sorted(self.left.items(), key=lambda item: (-item[1], item[0]))
        return {
            "utterances": self._utterances,
            "by_kind": dict(self._by_kind.most_common()),
            "left_in_labels": [
                {
                    "marker": key[1],
                    "kind": key[0],
                    "utterances": count,
                    "examples": self._examples[key],
                }
                for key, count in left
            ],
            "removed_by_cleaning": dict(self.removed.most_common()),
        }


def _count(counts: Counter[T], keys: Iterable[T], most: int) -> list[T]:
    """Count keys, new ones only while there are fewer than `most`; those that were counted."""
    counted = []
    for key in keys:
        if key in counts or len(counts) < most:
            counts[key] += 1
            counted.append(key)
    return counted


def odd_characters(characters: Counter[str]) -> dict[str, int]:
    """Characters that are neither plain nor frequent letters, the most frequent first."""
    letters = sum(n for c, n in characters.items() if c.isalpha())

    def odd(character: str, count: int) -> bool:
        if character.casefold() in _PLAIN_CHARACTERS:
            return False
        if character.isalpha() or unicodedata.category(character)[0] == "M":
            return count < _RARE * letters
        return not character.isdigit()

    return {c: n for c, n in characters.most_common() if odd(c, n)}


# ------------------------------------------------------------------------------------- findings


def findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What deserves a look, the gravest first: kind, count, and a message with what to do.

    The kinds are overlap, conflict, duplicate, marker, context and policy.
    """
    found: list[tuple[str, int, str]] = []
    for test in report["overlap"]:
        count, of = test["recordings_in_training"], test["recordings"]
        message = f"{count:,} of {of:,} recordings of {test['set']} are in this set: "
        found.append(("overlap", count, message + "scores on it mean nothing; take them out"))
        count, of = test["long_texts_in_training"], test["long_texts"]
        message = f"{count:,} of {of:,} texts of 5 words or more of {test['set']} are in this set: "
        message += "the same recordings in another form, or only the same sentences"
        found.append(("overlap", count, message))
    for key, kind, what in (
        ("same_audio_other_text", "conflict", "have the audio of another with a different text"),
        ("same_audio_and_text", "duplicate", "came before, with audio and text"),
    ):
        count = report["repeats"][key]["utterances"]
        found.append((kind, count, f"{count:,} utterances {what}: take them out"))
    markers, tokens = report["markers"], report["tokens"]
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in markers["by_kind"].items())
    message = f"{markers['utterances']:,} labels hold what may not have been said ({kinds}): "
    found.append(("marker", markers["utterances"], message + "the model would learn to write it"))
    count, context = tokens["over_context"], tokens["context"] or 0
    message = f"{count:,} utterances are longer than the decoder's {context:,} positions: "
    found.append(("context", count, message + "set data.max_seconds lower"))
    found += _policy(report["labels"])
    return [
        {"kind": kind, "count": count, "message": message}
        for kind, count, message in found
        if count
    ]


def _policy(labels: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Labels that are written in more than one way."""
    known, capitals = sum(labels["case"].values()), labels["case"].get("capitals", 0)
    if known and _FEW < capitals / known < 1 - _FEW:
        message = f"{capitals:,} labels of {known:,} are in capitals, the others are not: "
        yield "policy", capitals, message + "data.labels.case=lower makes them alike"
    punctuated = labels["punctuated"]
    share = punctuated / max(labels["labels"], 1)
    if 0.1 < share < 0.8:
        message = f"{share:.0%} of the labels have punctuation: "
        yield "policy", punctuated, message + "data.labels.punctuation=strip makes them alike"
