"""How sure a figure is, whether two systems differ, and where the errors are.

Intervals and comparisons are bootstraps (Bisani and Ney 2004) over speakers where these are known:
one speaker's utterances are right or wrong together. Not `scipy.stats.bootstrap`: a matrix product
with weights does all ratios at once. Legend: N units that are drawn, R resamples, F figures.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiny_audio.evaluate.results import Evaluation, Record, set_name
from tiny_audio.evaluate.wer import UtteranceScore
from tiny_audio.text.scoring import get_rule

Floats = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES, PAIRED_RESAMPLES = 1000, 5000
LEVEL = 0.95  # of intervals
_CELLS = 1 << 21  # weights that are held in memory at once

# What an utterance adds above and below the line of each rate.
RATES: dict[str, Callable[[Record, UtteranceScore], tuple[float, float]]] = {
    "wer": lambda _, one: (one.words.errors, one.words.reference),
    "substitution_rate": lambda _, one: (one.words.substitutions, one.words.reference),
    "deletion_rate": lambda _, one: (one.words.deletions, one.words.reference),
    "insertion_rate": lambda _, one: (one.words.insertions, one.words.reference),
    "cer": lambda _, one: (one.characters.errors, one.characters.reference),
    "sentence_error_rate": lambda _, one: (one.words.errors > 0, 1),
    "rtfx": lambda record, _: (record.duration, record.seconds),
}

# ------------------------------------------------------------------------------------ resampling


def resampling_units(records: Sequence[Record]) -> tuple[list[object], str]:
    """The unit of each record, and what units are: speakers where known, else utterances."""
    units: list[object] = [
        number if record.speaker is None else (record.set, record.source, record.speaker)
        for number, record in enumerate(records)
    ]
    known = sum(record.speaker is not None for record in records)
    if not known or len(set(units)) < 2:
        return list(range(len(records))), "utterance"
    return units, "speaker" if known == len(records) else "speaker or utterance"


def group_sums(values: Floats, units: Sequence[object]) -> Floats:
    """Rows [., F] of the same unit added up: [N, F], in the order in which units come."""
    positions = {unit: position for position, unit in enumerate(dict.fromkeys(units))}
    sums = np.zeros((len(positions), values.shape[1]))
    np.add.at(sums, [positions[unit] for unit in units], values)
    return sums


def resampled_sums(values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Sums [R, F] over N rows [N, F] that are drawn with replacement, R times."""
    n = len(values)
    step = max(1, _CELLS // n)
    sums = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        sums.append(weights.astype(values.dtype) @ values)
    return np.concatenate(sums)


class Bootstrap(NamedTuple):
    """Rates and their intervals, None where one has no value; unit: see `resampling_units`."""

    rates: dict[str, float | None]
    intervals: dict[str, Interval | None]
    unit: str
    units: int


def bootstrap(evaluation: Evaluation) -> Bootstrap:
    """Intervals of all RATES of an evaluation; the same records give the same intervals."""
    units, unit = resampling_units(evaluation.scored)
    rows = [[rate(*pair) for rate in RATES.values()] for pair in evaluation.pairs()]
    values = np.array(rows, dtype=np.float64).reshape(-1, len(RATES), 2)
    rates = [share(*sums) for sums in values.sum(axis=0).tolist()]
    above, below = (group_sums(values[..., i], units) for i in (0, 1))
    found = intervals(above, below, RESAMPLES, np.random.default_rng(0))
    both = (dict(zip(RATES, rates, strict=True)), dict(zip(RATES, found, strict=True)))
    return Bootstrap(*both, unit, len(above))


def intervals(
    above: Floats, below: Floats, resamples: int, rng: np.random.Generator
) -> list[Interval | None]:
    """Intervals of the ratios of sums, above [N, F] over below [N, F].

    Percentiles, expanded as Student's t is wider than the normal distribution (Hesterberg 2015), as
    intervals of few speakers would be too narrow. None where `below` adds up to 0, and for N < 2.
    """
    from scipy.special import ndtr, stdtrit  # on first use: starting up stays cheap

    n, figures = above.shape
    if n < 2:
        return [None] * figures
    sums = resampled_sums(np.concatenate([above, below], axis=1), resamples, rng)  # [R, 2F]
    tail = ndtr(-stdtrit(n - 1, (1 + LEVEL) / 2) * math.sqrt(n / (n - 1)))
    found: list[Interval | None] = []
    for over, under in zip(sums[:, :figures].T, sums[:, figures:].T, strict=True):
        ratios = over[under > 0] / under[under > 0]
        ends = tuple(np.quantile(ratios, [tail, 1 - tail]).tolist()) if len(ratios) else None
        found.append(ends)
    return found


# ---------------------------------------------------------------------------------- significance


class PairedBootstrap(NamedTuple):
    """Difference of two word error rates, B less A, its middle 95 %, and a two-sided p."""

    difference: float
    interval: Interval
    p: float
    units: int


def paired_bootstrap(errors_a: Floats, errors_b: Floats, words: Floats) -> PairedBootstrap:
    """Compare two systems on the same resamples of N units; counts [N]; there must be words."""
    values = np.stack([errors_b - errors_a, words], axis=1).astype(np.float64)  # [N, 2]
    drawn = resampled_sums(values, PAIRED_RESAMPLES, np.random.default_rng(0))  # [R, 2]
    full = drawn[drawn[:, 1] > 0]
    low, high = np.quantile(full[:, 0] / full[:, 1], [0.025, 0.975])
    difference, total = values.sum(axis=0)
    p = float(crossing_p(drawn[:, 0]))
    return PairedBootstrap(float(difference / total), (float(low), float(high)), p, len(values))


def crossing_p(drawn: Floats) -> Floats:
    """Two-sided p [...] of differences [R, ...]: twice the share that crosses zero."""
    below, above = (drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0)
    p: Floats = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (len(drawn) + 1))
    return p


# ---------------------------------------------------------------------------- figures, breakdowns


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Counts, rates, speed and the rates' intervals, ready for JSON."""
    score, words = evaluation.score, evaluation.score.words
    drawn = bootstrap(evaluation)
    return {
        "scoring": evaluation.rule,
        "primary": get_rule(evaluation.rule).primary,
        "utterances": len(score.utterances),
        "empty_references": sum(not one.reference for one in score.utterances),
        "reference_words": words.reference,
        **words._asdict(),
        **drawn.rates,
        "audio_seconds": round(evaluation.audio_seconds, 3),
        "wall_seconds": round(evaluation.wall_seconds, 3),
        "rtfx": evaluation.rtfx,
        "failed": evaluation.failures.total(),
        "failures": dict(evaluation.failures),
        "intervals": drawn.intervals,
        "bootstrap": {"unit": drawn.unit, "units": drawn.units},
    }


def share(count: float, total: float) -> float | None:
    """A part of a total; None where there is no total."""
    return count / total if total else None


UNKNOWN = "unknown"
SECONDS = (0, 2, 5, 10, 20, 30)  # of audio, where bins begin: half open, [low, high)
DURATIONS = [*(f"{low} to {high} s" for low, high in pairwise(SECONDS)), "30 s and more"]
BREAKDOWNS: dict[str, Callable[[Record], str]] = {
    "duration": lambda record: DURATIONS[bisect_right(SECONDS, record.duration) - 1],
    "set": set_name,
    "source": lambda record: record.source,
    "speaker": lambda r: UNKNOWN if r.speaker is None else f"{r.source}/{r.speaker}",
}


def divide(evaluation: Evaluation, kind: str) -> dict[str, list[int]]:
    """Positions of the records by one of BREAKDOWNS; durations in order, names as they come."""
    found = evaluation.positions(BREAKDOWNS[kind])
    order = DURATIONS if kind == "duration" else list(found)
    return {name: found[name] for name in order if name in found}
