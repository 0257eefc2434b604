"""What `data check` counts over the usable utterances of a set, and what deserves a look."""

from __future__ import annotations

import heapq
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tiny_audio.data.records import Utterance
from tiny_audio.data.rejects import EXAMPLES
from tiny_audio.model.build import Lengths
from tiny_audio.text.labels import in_capitals

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
_MOST_LISTED = 1_000  # different notes and markers in a report
_PLAIN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789 '.,?!-")
_RARE = 1e-4  # share of all letters below which a letter is odd
_FEW = 0.02  # a share of labels below this, or above 1 less this, is no second way of writing


class Statistics:
    """All that is counted: `add` each utterance, then `report`.

    Args:
        lengths: audio and label tokens of the model that is to learn from the set.
    """

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._seconds, self._rates = array("d"), array("d")
        self._slowest: list[tuple[float, str, str]] = []
        self._fastest: list[tuple[float, str, str]] = []
        self._audio_tokens = self._label_tokens = self._over_context = 0
        self._longest = (0, "")  # tokens, id
        self._style: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._characters: Counter[str] = Counter()
        self._removed: Counter[str] = Counter()  # notes that are in the transcript alone
        self._left: Counter[str] = Counter()  # marker -> labels
        self._marked: dict[str, tuple[str, str]] = {}  # marker -> id and label of the first
        self._marked_labels = 0
        self._speakers: Counter[str] = Counter()
        self._sources: dict[str, dict[str, float]] = {}

    def add(self, utterance: Utterance) -> None:
        """Count an utterance."""
        label, seconds = utterance.text, utterance.seconds
        rated = (len(label) / seconds, utterance.id, label)
        self._seconds.append(seconds)
        self._rates.append(rated[0])
        self._slowest = heapq.nsmallest(EXAMPLES, [*self._slowest, rated])
        self._fastest = heapq.nlargest(EXAMPLES, [*self._fastest, rated])
        source = self._sources.setdefault(utterance.source, {"utterances": 0, "hours": 0.0})
        source["utterances"] += 1
        source["hours"] += seconds / 3600
        if utterance.speaker is not None:
            self._speakers[f"{utterance.source}/{utterance.speaker}"] += 1
        self._add_label(utterance.id, label, str(utterance.extra["transcript"]))
        n_audio = self._lengths.audio_tokens(len(utterance.waveform))
        ids, n_prompt = self._lengths.prompt.training(n_audio, label)
        self._audio_tokens += n_audio
        self._label_tokens += len(ids) - n_prompt
        self._longest = max(self._longest, (len(ids), utterance.id))
        self._over_context += self._lengths.context is not None and len(ids) > self._lengths.context

    def _add_label(self, utterance_id: str, label: str, transcript: str) -> None:
        self._style.update(label_style(label))
        self._characters.update(label)
        words = (word.strip(".,?!;:\"'-") for word in label.casefold().split())
        self._words.update(word for word in words if word)
        notes = sorted({match[0].casefold() for match in re.finditer(_BRACKETS, transcript)})
        self._removed.update(note for note in notes if note not in label.casefold())
        found = sorted(markers(label))
        self._marked_labels += bool(found)
        self._left.update(found)
        for marker in found:
            self._marked.setdefault(marker, (utterance_id, label[:200]))

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        seconds, left = sum(self._seconds), dict(self._left.most_common(_MOST_LISTED))
        return {
            "utterances": len(self._seconds),
            "hours": seconds / 3600,
            "sources": self._sources,
            "seconds": distribution(self._seconds),
            "characters_per_second": distribution(self._rates),
            "slowest": self._slowest,
            "fastest": self._fastest,
            "vocabulary": {
                "running_words": self._words.total(),
                "different_words": len(self._words),
                "words_seen_once": sum(n == 1 for n in self._words.values()),
                "most_frequent_words": dict(self._words.most_common(50)),
                "characters": dict(self._characters.most_common()),
                "odd_characters": odd_characters(self._characters),
            },
            "labels": dict(self._style),
            "markers": {
                "labels": self._marked_labels,
                "left": left,
                "examples": {marker: self._marked[marker] for marker in left},
                "removed_by_cleaning": dict(self._removed.most_common(_MOST_LISTED)),
            },
            "tokens": {
                "model": self._lengths.name,
                "audio_tokens_per_second": self._audio_tokens / seconds,
                "label_tokens_per_second": self._label_tokens / seconds,
                "longest_sequence": self._longest[0],
                "longest_id": self._longest[1],
                "context": self._lengths.context,
                "over_context": self._over_context,
            },
            "speakers": {
                "speakers": len(self._speakers),
                "most_utterances": dict(self._speakers.most_common(10)),
            },
        }


def distribution(values: Sequence[float]) -> dict[str, Any]:
    """Mean, quantiles and a histogram of 40 bins."""
    quantiles = np.quantile(values, (0, 0.01, 0.5, 0.99, 1)).tolist()
    counts, edges = np.histogram(values, 40)
    return {
        "mean": float(np.mean(values)),
        **dict(zip(("min", "p01", "median", "p99", "max"), quantiles, strict=True)),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def label_style(label: str) -> Iterator[str]:
    """How a label is written; ``known case`` where it is long enough to tell capitals by."""
    if (capitals := in_capitals(label)) is not None:
        yield "known case"
        if capitals:
            yield "in capitals"
    if any(c in ",.?!;:" for c in label):
        yield "with punctuation"
    if any(c.isdigit() for c in label):
        yield "with digits"


def markers(label: str) -> set[str]:
    """What in a label may not have been said."""
    return {m[0].casefold() for pattern in MARKERS.values() for m in pattern.finditer(label)}


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


def findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What deserves a look, the gravest first: kind, count, and a message with what to do.

    The kinds are overlap, conflict, duplicate, marker, context and policy.
    """
    return [
        {"kind": kind, "count": count, "message": f"{count:,} {message}"}
        for kind, count, message in _findings(report)
        if count
    ]


def _findings(report: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    for test in report["overlap"]:
        for kind, advice in (
            ("recordings", "scores on it mean nothing; take them out"),
            ("long_texts", "the same recordings in another form, or only the same sentences"),
        ):
            found = test[kind]
            message = f"of {found['distinct']:,} {kind.replace('_', ' ')} of {test['set']} are in "
            message += f"this set, such as {_pair(found)}: {advice}"
            yield "overlap", found["in_training"], message
    found = report["repeats"]["same_audio_other_text"]
    message = "utterances have the audio of another with a different text, such as "
    yield "conflict", found["utterances"], f"{message}{_pair(found)}: take them out"
    found = report["repeats"]["same_audio_and_text"]
    message = f"utterances came before, with audio and text, such as {_pair(found)}: take them out"
    yield "duplicate", found["utterances"], message
    for marker, (one, label) in list(report["markers"]["examples"].items())[:1]:
        message = f"labels hold what may not have been said, such as {marker} in {one} ({label}): "
        yield "marker", report["markers"]["labels"], message + "the model would learn to write it"
    message = f"utterances are longer than the decoder's {report['tokens']['context']} positions: "
    yield "context", report["tokens"]["over_context"], message + "set data.max_seconds lower"
    labels = report["labels"]
    known, capitals = labels.get("known case", 0), labels.get("in capitals", 0)
    if _FEW * known < capitals < (1 - _FEW) * known:
        message = f"labels of {known:,} are in capitals, the others are not: "
        yield "policy", capitals, message + "data.labels.case=lower makes them alike"
    punctuated = labels.get("with punctuation", 0)
    if 0.1 < punctuated / report["utterances"] < 0.8:
        message = f"labels of {report['utterances']:,} have punctuation: "
        yield "policy", punctuated, message + "data.labels.punctuation=strip makes them alike"


def _pair(found: dict[str, Any]) -> str:
    return next((f"{one} = {other}" for one, other in found["examples"]), "")
