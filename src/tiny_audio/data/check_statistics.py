"""What `data check` counts over the usable utterances of a set, and what deserves a look."""

from __future__ import annotations

import heapq
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tiny_audio.data.records import Utterance
from tiny_audio.data.rejects import EXAMPLES
from tiny_audio.model.build import Lengths

_BRACKETS = r"<[^<>]{0,60}>|\[[^\[\]]{0,60}\]|\([^()]{0,60}\)|\{[^{}]{0,60}\}"
# Searched for in labels, after cleaning: what is found here would be learned.
MARKERS = re.compile(
    rf"""{_BRACKETS} | [<>\[\](){{}}]
    | (?P<sign>[^\w\s.])(?P=sign){{2,}} | \.{{4,}} | _{{2,}}
    | (?P<letter>[^\W\d_])(?P=letter){{3,}}
    | \b(?P<word>\w+)(?:\W+(?P=word)\b){{3,}}
    | ^(?:nan|null|none|n/a|unk|todo|tbd)$ | (?<!\w)(?:unk|xxx+|yyy+|www)(?!\w)
    | &(?:\w{{2,8}}|\#\d{{1,6}}); | https?://\S* | \bwww\.\S* | \\[ntr"] | [*~^|\\]
    | (?-i: \N{{REPLACEMENT CHARACTER}} | Ã[\x80-¿] | â€.? | Â[\x80-¿\ ])  # of a wrong encoding
    """,
    re.IGNORECASE | re.VERBOSE,
)
Finding = tuple[str, Sequence[str], str]  # kind, ids or pairs of them, what to do

_LISTED = 1_000  # the most frequent words, notes and so on that a report has
_QUANTILES = {"min": 0.0, "p01": 0.01, "median": 0.5, "p99": 0.99, "max": 1.0}


class Statistics:
    """All that is counted: `add` each utterance, then ask for the figures.

    `lengths` are those of the model that is to learn from the set.
    """

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self.values: dict[str, Any] = {"seconds": array("d"), "characters_per_second": array("d")}
        kinds = ("words", "characters", "notes_removed", "notes_left", "speakers")
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
        counts["characters"].update(label)
        words = (word.strip(".,?!;:\"'-") for word in label.casefold().split())
        counts["words"].update(word for word in words if word)
        notes = re.findall(_BRACKETS, str(utterance.extra["transcript"]).casefold())
        counts["notes_removed"].update({note for note in notes if note not in label.casefold()})
        if found := markers(label):
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
        seconds = sum(self.values["seconds"])
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
            "running_words": self._counts["words"].total(),
            "different_words": len(self._counts["words"]),
            **{name: dict(found.most_common(_LISTED)) for name, found in self._counts.items()},
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
        yield "marker", self._marked, message
        message = f"utterances are longer than the decoder's {self._lengths.context} positions: "
        yield "context", self._too_long, message + "set data.max_seconds lower"


def markers(label: str) -> set[str]:
    """What in a label may not have been said."""
    return {found[0].casefold() for found in MARKERS.finditer(label)}
