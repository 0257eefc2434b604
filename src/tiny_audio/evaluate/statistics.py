"""How sure a figure is, whether two systems differ, where the errors are, and calibration.

**Intervals** (Efron 1979; Bisani and Ney 2004 for word errors): the set is resampled with
replacement, and the interval holds the middle of what a figure came to. Whole speakers are drawn
where speakers are known, because one speaker's utterances are right or wrong together.

**Paired bootstrap** (Bisani and Ney 2004): both systems are counted on the same resamples; p is
twice the share of them in which the worse system comes out no worse.

**Matched pairs** (MAPSSWE, Gillick and Cox 1989): utterances are cut wherever both systems have
two words right in a row; the segments with an error are taken for independent, and the mean
difference of their error counts is compared with its standard error.

Not `scipy.stats.bootstrap`: a matrix product with weights does seven ratios of sums at once.
Legend: N units that are drawn, R resamples, F figures, M comparisons made at once.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_audio.evaluate.results import Evaluation, Record, set_name
from tiny_audio.evaluate.wer import AlignedWord, UtteranceScore

Floats = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES, PAIRED_RESAMPLES = 1000, 5000
LEVEL = 0.95  # of intervals
BUFFER = 2  # words that both systems have right between two segments
BINS = 10  # of confidence
_CELLS = 1 << 21  # weights that are held in memory at once

FIGURES = (
    "wer", "substitution_rate", "deletion_rate", "insertion_rate", "cer", "sentence_error_rate",
    "rtfx",
)  # fmt: skip

# ------------------------------------------------------------------------------------ resampling


def resampling_units(records: Sequence[Record]) -> tuple[list[tuple[object, ...]], str]:
    """The unit that each record belongs to, and what units are.

    A speaker of a source where known, else an utterance; where all come from one speaker, every
    utterance is a unit.
    """
    units: list[tuple[object, ...]] = [
        (number,) if record.speaker is None else (record.set, record.source, record.speaker)
        for number, record in enumerate(records)
    ]
    known = sum(record.speaker is not None for record in records)
    if not known or len(set(units)) < 2:
        return [(number,) for number in range(len(records))], "utterance"
    return units, "speaker" if known == len(records) else "speaker or utterance"


def group_sums(values: Floats, units: Sequence[object]) -> Floats:
    """Rows [., F] of the same unit added up: [N, F], in the order in which units come."""
    positions: dict[object, int] = {}
    index = [positions.setdefault(unit, len(positions)) for unit in units]
    sums = np.zeros((len(positions), values.shape[1]))
    np.add.at(sums, np.array(index, dtype=np.int64), values)
    return sums


def resample(n: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each of N units is drawn in each of R resamples: [R, N], in blocks [., N]."""
    step = max(1, _CELLS // max(n, 1))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * n)
        yield weights.reshape(count, n).astype(np.float64)


@dataclass(frozen=True)
class Bootstrap:
    """Intervals by figure, None where one has no value; unit: see `resampling_units`."""

    level: float
    resamples: int
    seed: int
    unit: str
    units: int
    intervals: dict[str, Interval | None]


def bootstrap(
    evaluation: Evaluation, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Bootstrap:
    """Intervals of all FIGURES of an evaluation; the same seed gives the same intervals."""
    rows = [
        (
            one.words.errors, one.words.substitutions, one.words.deletions, one.words.insertions,
            one.characters.errors, one.words.errors > 0, record.duration,
            *[one.words.reference] * 4, one.characters.reference, 1, record.seconds,
        )
        for record, one in evaluation.pairs()
    ]  # fmt: skip
    units, unit = resampling_units(evaluation.scored)
    values = np.array(rows, dtype=np.float64).reshape(-1, 2 * len(FIGURES))
    above, below = np.split(group_sums(values, units), 2, axis=1)
    rng = np.random.default_rng(seed)
    found = intervals(above, below, resamples=resamples, level=level, rng=rng)
    named = dict(zip(FIGURES, found, strict=True))
    return Bootstrap(level, resamples, seed, unit, len(above), named)


def intervals(
    above: Floats, below: Floats, *, resamples: int, level: float, rng: np.random.Generator
) -> list[Interval | None]:
    """Intervals of the ratios of sums: above [N, F] over below [N, F].

    The share cut off at each end is smaller than the plain percentile interval's by as much as
    Student's t is wider than the normal distribution (Hesterberg 2015, "expanded percentile
    interval"): intervals of sets with few speakers would be too narrow. None for a figure whose
    sum below the line is 0, and for N below 2.
    """
    from scipy.special import ndtr, stdtrit  # on first use: starting up stays cheap

    n, figures = above.shape
    if n < 2:  # drawn again and again, one unit is always itself
        return [None] * figures
    both = np.concatenate([above, below], axis=1)
    sums = np.concatenate([weights @ both for weights in resample(n, resamples, rng)])  # [R, 2F]
    tail = ndtr(-stdtrit(n - 1, (1 + level) / 2) * math.sqrt(n / (n - 1)))
    found: list[Interval | None] = []
    for over, under in zip(sums[:, :figures].T, sums[:, figures:].T, strict=True):
        defined = under > 0
        if not defined.any():
            found.append(None)
            continue
        low, high = np.quantile(over[defined] / under[defined], [tail, 1 - tail])
        found.append((float(low), float(high)))
    return found


# ---------------------------------------------------------------------------------- significance


@dataclass(frozen=True)
class PairedBootstrap:
    """Difference of two word error rates, B less A: negative where B is better.

    interval: its middle 95 %, two rates. p: two-sided. units: how many were drawn from.
    """

    difference: float
    interval: Interval
    p: float
    units: int
    resamples: int


@dataclass(frozen=True)
class MatchedPairs:
    """Gillick and Cox's test: z is negative where B makes fewer errors; p is two-sided."""

    z: float
    p: float
    segments: int


def paired_bootstrap(
    errors_a: Floats,
    errors_b: Floats,
    words: Floats,
    *,
    resamples: int = PAIRED_RESAMPLES,
    seed: int = 0,
) -> PairedBootstrap:
    """Compare two systems by the counts of N units, each [N]; the same seed, the same answer.

    Raises ValueError where there are no reference words.
    """
    if not words.sum() > 0:
        raise ValueError("no reference words")
    values = np.stack([errors_b - errors_a, words], axis=1).astype(np.float64)  # [N, 2]
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([w @ values for w in resample(len(values), resamples, rng)])  # [R, 2]
    full = drawn[drawn[:, 1] > 0]
    low, high = np.quantile(full[:, 0] / full[:, 1], [0.025, 0.975])
    difference, total = values.sum(axis=0)
    return PairedBootstrap(
        difference=float(difference / total),
        interval=(float(low), float(high)),
        p=float(crossing_p(drawn[:, 0])),
        units=len(values),
        resamples=resamples,
    )


def crossing_p(drawn: Floats) -> Floats:
    """Two-sided p [...] of differences in resamples [R, ...]: how often they cross zero."""
    below, above = (drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0)
    p: Floats = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (len(drawn) + 1))
    return p


def matched_pairs(differences: Floats) -> MatchedPairs:
    """Test whether errors of B less errors of A, by segment [.], have mean zero.

    The normal distribution stands for Student's, as in Gillick and Cox: with fewer than about 50
    segments p is a little too small. Without segments, or where all are equal to zero, p is 1.
    """
    count = len(differences)
    mean = float(differences.mean()) if count else 0.0
    if mean == 0.0 or count < 2:
        return MatchedPairs(0.0, 1.0, count)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    z = mean / error if error else math.copysign(math.inf, mean)
    return MatchedPairs(z, math.erfc(abs(z) / math.sqrt(2)), count)


def segments(
    one: Sequence[AlignedWord], other: Sequence[AlignedWord], buffer: int = BUFFER
) -> list[tuple[int, int]]:
    """Errors of both systems in each segment of an utterance that has any.

    Segments are apart by at least `buffer` reference words that both have right, with nothing
    inserted between them. Raises ValueError where the two alignments are of different references.
    """
    a, b = _errors_by_slot(one), _errors_by_slot(other)
    if len(a) != len(b):
        raise ValueError(f"references of {len(a) // 2} and {len(b) // 2} words")
    found: list[tuple[int, int]] = []
    right = buffer  # words that both have right since the last error
    for slot, (x, y) in enumerate(zip(a, b, strict=True)):
        if x or y:
            if right >= buffer:
                found.append((0, 0))
            found[-1] = (found[-1][0] + x, found[-1][1] + y)
            right = 0
        else:
            right += slot % 2
    return found


def _errors_by_slot(alignment: Sequence[AlignedWord]) -> list[int]:
    """Errors before the first reference word, at it, before the second, ..., after the last."""
    slots = [0]
    for step in alignment:
        if step.op == "insert":
            slots[-1] += 1
        else:
            slots += [int(step.op != "equal"), 0]
    return slots


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment (1979) for several comparisons, in the order given."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted


# ------------------------------------------------------------------------------------ breakdowns

SECONDS = (2.0, 5.0, 10.0, 20.0, 30.0)  # of audio
DECIBELS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)  # estimated
WORDS_PER_SECOND = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)  # reference words by seconds with pauses
UNKNOWN, NO_WORDS = "unknown", "no words"

_BINS = {
    "duration": (SECONDS, "s"),
    "snr": (DECIBELS, "dB"),
    "speaking_rate": (WORDS_PER_SECOND, "words/s"),
}


def bin_name(value: float, edges: tuple[float, ...], unit: str) -> str:
    """The half-open bin [low, high) of `value`: ``under 2 s``, ``2 to 5 s``, ``30 s and more``."""
    position = bisect_right(edges, value)
    if position == 0:
        return f"under {edges[0]:g} {unit}"
    if position == len(edges):
        return f"{edges[-1]:g} {unit} and more"
    return f"{edges[position - 1]:g} to {edges[position]:g} {unit}"


def _by_rate(record: Record, score: UtteranceScore) -> str:
    if not score.words.reference or not record.duration:
        return NO_WORDS
    return bin_name(score.words.reference / record.duration, *_BINS["speaking_rate"])


BREAKDOWNS: dict[str, Callable[[Record, UtteranceScore], str]] = {
    "duration": lambda record, _: bin_name(record.duration, *_BINS["duration"]),
    "snr": lambda r, _: UNKNOWN if r.snr is None else bin_name(r.snr, *_BINS["snr"]),
    "speaking_rate": _by_rate,
    "set": lambda record, _: set_name(record),
    "source": lambda record, _: record.source,
    "speaker": lambda r, _: UNKNOWN if r.speaker is None else f"{r.source}/{r.speaker}",
}


def divide(evaluation: Evaluation, kind: str) -> dict[str, Evaluation]:
    """The scored utterances by one of BREAKDOWNS; bins in order, names as they come.

    Parts are disjoint and together the whole, so their counts add up to it.
    """
    names = {id(record): BREAKDOWNS[kind](record, one) for record, one in evaluation.pairs()}
    scored = Evaluation(tuple(evaluation.scored), evaluation.score)
    found = scored.by(lambda record: names[id(record)])
    if kind not in _BINS:
        return found
    edges, unit = _BINS[kind]
    order = [bin_name(value, edges, unit) for value in (edges[0] - 1, *edges)]
    return {name: found[name] for name in [*order, NO_WORDS, UNKNOWN] if name in found}


def breakdown(evaluation: Evaluation, kind: str) -> dict[str, dict[str, Any]]:
    """Figures of every part by one of BREAKDOWNS, ready for JSON.

    Each has the WER with its interval, except speakers, who are many and have too few utterances.
    """
    names = ("utterances", "audio_seconds", "reference_words", "substitutions", "deletions",
             "insertions", "wer", "cer", "sentence_error_rate")  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    for part_name, part in divide(evaluation, kind).items():
        figures = part.summary()
        rows[part_name] = {name: figures[name] for name in names}
        if kind != "speaker":
            rows[part_name]["wer_interval"] = bootstrap(part).intervals["wer"]
    return rows


# ----------------------------------------------------------------------------------- calibration


def calibration(evaluation: Evaluation, bins: int = BINS) -> dict[str, Any]:
    """Whether confidence means anything; ready for JSON.

    Confidence is exp(mean log-probability of a token); an utterance is correct where it has no
    word error. ece = sum over bins of (utterances in it / all) * |share correct - mean confidence|
    (Guo et al. 2017). auroc: the chance that a correct utterance has more confidence than a wrong
    one; None where all are right or all wrong. Utterances without a log-probability (beam search,
    foreign models) are left out; where none remains the figures are None.
    """
    pairs = [
        (math.exp(min(record.logprob, 0.0)), one.words.errors == 0)
        for record, one in evaluation.pairs()
        if record.logprob is not None
    ]
    if not pairs:
        return {"utterances": 0, "ece": None, "auroc": None, "mean_confidence": None,
                "correct": None, "bins": []}  # fmt: skip
    from scipy.stats import mannwhitneyu

    confidence = np.array([c for c, _ in pairs])
    correct = np.array([right for _, right in pairs])
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows: list[dict[str, Any]] = []
    for i in range(bins):
        mask = number == i
        count = int(mask.sum())
        rows.append({
            "low": i / bins,
            "high": (i + 1) / bins,
            "utterances": count,
            "confidence": float(confidence[mask].mean()) if count else None,
            "correct": float(correct[mask].mean()) if count else None,
        })  # fmt: skip
    gaps = [r["utterances"] * abs(r["correct"] - r["confidence"]) for r in rows if r["utterances"]]
    right, wrong = confidence[correct], confidence[~correct]
    known = len(right) and len(wrong)
    u = mannwhitneyu(right, wrong, method="asymptotic").statistic if known else 0.0
    return {
        "utterances": len(pairs),
        "ece": sum(gaps) / len(pairs),
        "auroc": float(u / (len(right) * len(wrong))) if known else None,
        "mean_confidence": float(confidence.mean()),
        "correct": float(correct.mean()),
        "bins": rows,
    }
