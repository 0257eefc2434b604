"""Signs that a transcript holds what nobody said, and characters that labels rarely have."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tiny_audio.data.utterance import EXAMPLES

_BRACKETS = r"<[^<>]{0,60}>|\[[^\[\]]{0,60}\]|\([^()]{0,60}\)|\{[^{}]{0,60}\}"
_BRACKETED = re.compile(_BRACKETS)

# What to look for in a label, after cleaning: what is found here would be learned.
KINDS: dict[str, re.Pattern[str]] = {
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
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789 '.,?!-")
_RARE = 1e-4  # share of all letters below which a letter is odd


@dataclass
class Found:
    """One marker: utterances that have it, and a few of them."""

    kind: str
    utterances: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, utterance_id: str, text: str) -> None:
        """Count one utterance."""
        self.utterances += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append({"id": utterance_id, "text": text[:200]})


class Markers:
    """What was found in transcripts: notes that cleaning removed, and marks that it left."""

    MOST = 1000  # different ones that are kept apart

    def __init__(self) -> None:
        self.left: dict[tuple[str, str], Found] = {}
        self.removed: Counter[str] = Counter()
        self.utterances_left = 0
        self.by_kind: Counter[str] = Counter()

    def add(self, utterance_id: str, transcript: str, label: str) -> None:
        """Look through a transcript as its source has it, and the label made of it."""
        folded = label.casefold()
        gone = {span for span in map(str.casefold, _spans(transcript)) if span not in folded}
        for span in gone:
            if span in self.removed or len(self.removed) < self.MOST:
                self.removed[span] += 1
        found = {
            (kind, match[0].casefold())
            for kind, pattern in KINDS.items()
            for match in pattern.finditer(label)
        }
        self.utterances_left += bool(found)
        self.by_kind.update({kind for kind, _ in found})
        for key in found:
            if key in self.left or len(self.left) < self.MOST:
                self.left.setdefault(key, Found(key[0])).add(utterance_id, label)

    def summary(self) -> dict[str, Any]:
        """Plain values, the most frequent first."""
        left = sorted(self.left.items(), key=lambda item: (-item[1].utterances, item[0]))
        return {
            "utterances": self.utterances_left,
            "by_kind": dict(self.by_kind.most_common()),
            "left_in_labels": [
                {"marker": mark, "kind": kind, **_plain(found)} for (kind, mark), found in left
            ],
            "removed_by_cleaning": dict(self.removed.most_common()),
        }


def odd_characters(characters: Counter[str]) -> dict[str, int]:
    """Characters that are neither plain nor frequent letters, the most frequent first."""
    letters = sum(n for c, n in characters.items() if c.isalpha())

    def odd(character: str, count: int) -> bool:
        if character.casefold() in _PLAIN:
            return False
        if character.isalpha() or unicodedata.category(character)[0] == "M":
            return count < _RARE * letters
        return not character.isdigit()

    return {c: n for c, n in characters.most_common() if odd(c, n)}


class Policy:
    """Whether labels are written in one way: case, punctuation, digits."""

    def __init__(self) -> None:
        self.case: Counter[str] = Counter()
        self.punctuated = self.digits = self.labels = 0

    def add(self, label: str) -> None:
        """Look at one label."""
        letters = [c for c in label if c.isalpha() and c.lower() != c.upper()]
        self.labels += 1
        if len(letters) > 1:
            upper = sum(c.isupper() for c in letters)
            whole = {0: "lower case", len(letters): "capitals"}
            self.case[whole.get(upper, "mixed case")] += 1
        self.punctuated += any(c in ",.?!;:" for c in label)
        self.digits += any(c.isdigit() for c in label)

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "case": dict(self.case.most_common()),
            "punctuated": self.punctuated,
            "with_digits": self.digits,
            "labels": self.labels,
        }


def _spans(text: str) -> list[str]:
    return [match[0] for match in _BRACKETED.finditer(text)]


def _plain(found: Found) -> dict[str, Any]:
    return {"utterances": found.utterances, "examples": found.examples}
