"""What a checked set's figures mean: one line for each thing that deserves a look, and what to do.

Each line stands for a `kind`: overlap, duplicate, conflict, marker, context, policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FEW = 0.02  # a share of labels below this, or above 1 less this, is no second way of writing


def findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The findings of a report, the gravest first: kind, count, message."""
    return [
        {"kind": kind, "count": count, "message": message}
        for kind, count, message in (
            *_overlap(report["overlap"]),
            *_repeats(report["repeats"]),
            *_markers(report["markers"]),
            *_context(report["tokens"]),
            *_policy(report["labels"]),
        )
    ]


Finding = tuple[str, int, str]


def _overlap(sets: list[dict[str, Any]]) -> Iterator[Finding]:
    for one in sets:
        found, of = one["recordings_in_training"], one["recordings"]
        if found:
            yield (
                "overlap",
                found,
                f"{found:,} of {of:,} recordings of {one['set']} are in this set: "
                "scores on it mean nothing; take them out",
            )
        found, of = one["long_texts_in_training"], one["long_texts"]
        if found:
            yield (
                "overlap",
                found,
                f"{found:,} of {of:,} texts of 5 words or more of {one['set']} are in this set: "
                "the same recordings in another form, or only the same sentences",
            )


def _repeats(repeats: dict[str, Any]) -> Iterator[Finding]:
    for key, kind, what in (
        ("same_audio_other_text", "conflict", "have the audio of another with a different text"),
        ("same_audio_and_text", "duplicate", "came before, with audio and text"),
    ):
        if count := repeats[key]["utterances"]:
            yield kind, count, f"{count:,} utterances {what}: take them out"


def _markers(markers: dict[str, Any]) -> Iterator[Finding]:
    if count := markers["utterances"]:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in markers["by_kind"].items())
        yield (
            "marker",
            count,
            f"{count:,} labels hold what may not have been said ({kinds}): the model would learn "
            "to write it",
        )


def _context(tokens: dict[str, Any]) -> Iterator[Finding]:
    if count := tokens["over_context"]:
        yield (
            "context",
            count,
            f"{count:,} utterances are longer than the decoder's {tokens['context']:,} positions: "
            "set data.max_seconds lower",
        )


def _policy(labels: dict[str, Any]) -> Iterator[Finding]:
    case: dict[str, int] = labels["case"]
    known = sum(case.values())
    capitals = case.get("capitals", 0)
    if known and _FEW < capitals / known < 1 - _FEW:
        yield (
            "policy",
            capitals,
            f"{capitals:,} labels of {known:,} are in capitals, the others are not: "
            "data.labels.case=lower makes them alike",
        )
    share = labels["punctuated"] / max(labels["labels"], 1)
    if _FEW < share < 1 - _FEW and 0.1 < share < 0.8:
        yield (
            "policy",
            labels["punctuated"],
            f"{share:.0%} of the labels have punctuation: data.labels.punctuation=strip makes "
            "them alike",
        )
