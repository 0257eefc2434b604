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
Finding = tuple[str, int, str, Sequence[str]]  # kind, how many, what to do, ids or pairs of them

_LISTED = 1_000  # the most frequent words, notes and so on that a report has
_QUANTILES = {"min": 0.0, "p01": 0.01, "median": 0.5, "p99": 0.99, "max": 1.0}
_PLAIN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789 '.,?!-")
_RARE = 1e-4  # share of all letters below which a letter is odd
_FEW = 0.02  # a share of labels below this, or above 1 less this, is no second way of writing


class Statistics:
    """All that is counted: `add` each utterance, then ask for the figures.

    `lengths` are those of the model that is to learn from the set.
    """

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self.values: dict[str, Any] = {"seconds": array("d"), "characters_per_second": array("d")}
        kinds = ("words", "characters", "labels", "notes_removed", "notes_left", "speakers")
        self._counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        self._sources: dict[str, dict[str, float]] = {}
        self._slowest: list[tuple[float, str, str]] = []
        self._fastest: list[tuple[float, str, str]] = []
        self._audio_tokens = self._label_tokens = 0
        self._longest = (0, "")  # tokens, id
        self._too_long: list[str] = []  # ids of those that do not fit into the context
        self._marked: list[str] = []  # ids of labels with notes left

    def add(self, utterance: Utterance) -> None:
        """Count an utterance."""
        label, seconds, counts = utterance.text, utterance.seconds, self._counts
        rated = (len(label) / seconds, utterance.id, label)
        self.values["seconds"].append(seconds)
        self.values["characters_per_second"].append(rated[0])
        self._slowest = heapq.nsmallest(EXAMPLES, [*self._slowest, rated])
        self._fastest = heapq.nlargest(EXAMPLES, [*self._fastest, rated])
        source = self._sources.setdefault(utterance.source, {"utterances": 0, "hours": 0.0})
        source["utterances"] += 1
        source["hours"] += seconds / 3600
        if utterance.speaker is not None:
            counts["speakers"][f"{utterance.source}/{utterance.speaker}"] += 1
        counts["labels"].update(label_style(label))
        counts["characters"].update(label)
        words = (word.strip(".,?!;:\"'-") for word in label.casefold().split())
        counts["words"].update(word for word in words if word)
        notes = re.finditer(_BRACKETS, str(utterance.extra["transcript"]).casefold())
        gone = sorted({note[0] for note in notes if note[0] not in label.casefold()})
        counts["notes_removed"].update(gone)
        if found := sorted(markers(label)):
            counts["notes_left"].update(found)
            self._marked.append(utterance.id)
        n_audio = self._lengths.audio_tokens(len(utterance.waveform))
        ids, n_prompt = self._lengths.prompt.training(n_audio, label)
        self._audio_tokens += n_audio
        self._label_tokens += len(ids) - n_prompt
        self._longest = max(self._longest, (len(ids), utterance.id))
        if self._lengths.context is not None and len(ids) > self._lengths.context:
            self._too_long.append(utterance.id)

    def figures(self) -> dict[str, Any]:
        """Plain values for JSON."""
        seconds, words = sum(self.values["seconds"]), self._counts["words"]
        quantiles = {
            name: dict(zip(_QUANTILES, np.quantile(values, [*_QUANTILES.values()]), strict=True))
            for name, values in self.values.items()
        }
        return {
            "utterances": len(self.values["seconds"]),
            "hours": seconds / 3600,
            "sources": self._sources,
            **quantiles,
            "slowest": self._slowest,
            "fastest": self._fastest,
            "running_words": words.total(),
            "different_words": len(words),
            "words_seen_once": sum(n == 1 for n in words.values()),
            **{name: dict(found.most_common(_LISTED)) for name, found in self._counts.items()},
            "odd_characters": odd_characters(self._counts["characters"]),
            "tokens": {
                "of": self._lengths.name,
                "audio_per_second": self._audio_tokens / seconds,
                "label_per_second": self._label_tokens / seconds,
                "longest": self._longest,
                "context": self._lengths.context,
            },
        }

    def findings(self) -> Iterator[Finding]:
        """Labels that deserve a look, and utterances that do not fit into the decoder."""
        message = "labels hold what may not have been said, which the model would learn to write"
        yield "marker", len(self._marked), message, self._marked
        message = f"utterances are longer than the decoder's {self._lengths.context} positions: "
        message += "set data.max_seconds lower"
        yield "context", len(self._too_long), message, self._too_long
        styles, every = self._counts["labels"], len(self.values["seconds"])
        known, capitals = styles["known case"], styles["in capitals"]
        if _FEW * known < capitals < (1 - _FEW) * known:
            message = f"labels of {known:,} are in capitals, the others are not: "
            yield "policy", capitals, message + "data.labels.case=lower makes them alike", []
        punctuated = styles["with punctuation"]
        if 0.1 * every < punctuated < 0.8 * every:
            message = f"labels of {every:,} have punctuation: "
            message += "data.labels.punctuation=strip makes them alike"
            yield "policy", punctuated, message, []


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
    rare = _RARE * sum(n for c, n in characters.items() if c.isalpha())
    return {
        c: n
        for c, n in characters.most_common()
        if c.casefold() not in _PLAIN_CHARACTERS
        and (n < rare if unicodedata.category(c)[0] in "LM" else not c.isdigit())
    }
