"""The same evaluation in parts: where the errors are.

A part is named by what its utterances have in common. Parts of one kind are disjoint and together
the whole, so their counts add up to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from tiny_audio.evaluate.bootstrap import bootstrap
from tiny_audio.evaluate.records import Evaluation, Record
from tiny_audio.evaluate.wer import UtteranceScore

SECONDS = (2.0, 5.0, 10.0, 20.0, 30.0)  # of audio
DECIBELS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)  # estimated
WORDS_PER_SECOND = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)  # reference words by seconds of audio
UNKNOWN = "unknown"
NO_WORDS = "no words"

Key = Callable[[Record, UtteranceScore], str]


def bin_name(value: float, edges: tuple[float, ...], unit: str) -> str:
    """The half-open bin [low, high) of `value`: ``under 2 s``, ``2 to 5 s``, ``30 s and more``."""
    place = bisect_right(edges, value)
    if place == 0:
        return f"under {edges[0]:g} {unit}"
    if place == len(edges):
        return f"{edges[-1]:g} {unit} and more"
    return f"{edges[place - 1]:g} to {edges[place]:g} {unit}"


def by_duration(record: Record, _: UtteranceScore) -> str:
    """Seconds of audio."""
    return bin_name(record.duration, SECONDS, "s")


def by_snr(record: Record, _: UtteranceScore) -> str:
    """Estimated signal-to-noise ratio."""
    return UNKNOWN if record.snr is None else bin_name(record.snr, DECIBELS, "dB")


def by_rate(record: Record, score: UtteranceScore) -> str:
    """Speaking rate: reference words, as they are scored, by seconds of audio with its pauses."""
    if not score.words.reference or not record.duration:
        return NO_WORDS
    return bin_name(score.words.reference / record.duration, WORDS_PER_SECOND, "words/s")


def by_set(record: Record, _: UtteranceScore) -> str:
    """The test set, or the source where no set is named."""
    return record.set or record.source


def by_source(record: Record, _: UtteranceScore) -> str:
    """The data source within the set."""
    return record.source


def by_speaker(record: Record, _: UtteranceScore) -> str:
    """The speaker, with the source before it: two sources may call theirs alike."""
    return UNKNOWN if record.speaker is None else f"{record.source}/{record.speaker}"


_BINNED: dict[str, tuple[Key, tuple[float, ...], str]] = {
    "duration": (by_duration, SECONDS, "s"),
    "snr": (by_snr, DECIBELS, "dB"),
    "speaking_rate": (by_rate, WORDS_PER_SECOND, "words/s"),
}
_NAMED: dict[str, Key] = {"set": by_set, "source": by_source, "speaker": by_speaker}
BREAKDOWNS: dict[str, Key] = {name: key for name, (key, _, _) in _BINNED.items()} | _NAMED


def parts(evaluation: Evaluation, kind: str) -> dict[str, Evaluation]:
    """The scored utterances in parts by one of BREAKDOWNS; bins in order, names as they come."""
    scores = {id(r): s for r, s in zip(evaluation.scored, evaluation.score.utterances, strict=True)}
    key = BREAKDOWNS[kind]
    scored = Evaluation(tuple(evaluation.scored), evaluation.score)
    found = scored.by(lambda record: key(record, scores[id(record)]))
    if kind not in _BINNED:
        return found
    _, edges, unit = _BINNED[kind]
    order = [bin_name(value, edges, unit) for value in (edges[0] - 1, *edges)]
    return {name: found[name] for name in [*order, NO_WORDS, UNKNOWN] if name in found}


def breakdown(evaluation: Evaluation, kind: str) -> dict[str, dict[str, Any]]:
    """Figures of every part by one of BREAKDOWNS, ready for JSON.

    Each has the WER with its interval, except speakers, who are many and have too few utterances.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, part in parts(evaluation, kind).items():
        score = part.score
        rows[name] = {
            "utterances": score.n_utterances,
            "audio_seconds": round(part.audio_seconds, 3),
            "reference_words": score.reference_words,
            "substitutions": score.substitutions,
            "deletions": score.deletions,
            "insertions": score.insertions,
            "wer": score.wer,
            "cer": score.cer,
            "sentence_error_rate": score.sentence_error_rate,
        }
        if kind != "speaker":
            rows[name]["wer_interval"] = bootstrap(part).intervals["wer"]
    return rows
