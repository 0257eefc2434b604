"""How sure a figure is: bootstrap intervals (Efron 1979; Bisani and Ney 2004 for word errors).

A set is drawn anew, with replacement, many times, and a figure's interval holds the middle of what
it came to. What is drawn is a whole speaker where speakers are known, because one speaker's
utterances are right or wrong together, and an utterance where they are not.

The share that is cut off at each end is a little smaller than the plain percentile interval's, by
as much as Student's t is wider than the normal distribution (Hesterberg 2015, "expanded percentile
interval"): else the intervals of sets with few speakers would be too narrow.

Legend: N units that are drawn, K quantities that are added up, R resamples, F figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tiny_audio.evaluate.records import Evaluation, Record

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
_CELLS = 1 << 21  # drawn numbers that are held in memory at once

# figure -> (quantities above the line, quantity below it), in the order of `_quantities`
QUANTITIES = (
    "substitutions", "deletions", "insertions", "reference_words", "character_errors",
    "reference_characters", "wrong", "utterances", "audio_seconds", "wall_seconds",
)  # fmt: skip
FIGURES: dict[str, tuple[tuple[str, ...], str]] = {
    "wer": (("substitutions", "deletions", "insertions"), "reference_words"),
    "substitution_rate": (("substitutions",), "reference_words"),
    "deletion_rate": (("deletions",), "reference_words"),
    "insertion_rate": (("insertions",), "reference_words"),
    "cer": (("character_errors",), "reference_characters"),
    "sentence_error_rate": (("wrong",), "utterances"),
    "rtfx": (("audio_seconds",), "wall_seconds"),
}

Interval = tuple[float, float]


@dataclass(frozen=True)
class Bootstrap:
    """What was drawn and how often; figure -> interval, None where the figure has no value."""

    level: float
    resamples: int
    seed: int
    unit: str  # "speaker", "utterance", or "speaker or utterance"
    units: int
    intervals: dict[str, Interval | None]


def bootstrap(
    evaluation: Evaluation,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
    by_speaker: bool = True,
) -> Bootstrap:
    """Intervals of all figures of an evaluation; the same seed gives the same intervals.

    An utterance without a speaker is a unit of its own; where all come from one speaker, every
    utterance is.
    """
    values = quantities(evaluation)
    scored = evaluation.scored
    named = sum(record.speaker is not None for record in scored) if by_speaker else 0
    labels = [_unit(record, number, bool(named)) for number, record in enumerate(scored)]
    unit = "utterance" if not named else "speaker"
    if 0 < named < len(scored):
        unit = "speaker or utterance"
    if len(set(labels)) < 2:
        labels, unit = [(number,) for number in range(len(scored))], "utterance"
    units = group_sums(values, labels)
    numerators = [[QUANTITIES.index(name) for name in above] for above, _ in FIGURES.values()]
    denominators = [QUANTITIES.index(below) for _, below in FIGURES.values()]
    above = np.stack([units[:, columns].sum(axis=1) for columns in numerators], axis=1)
    found = intervals(
        above,
        units[:, denominators],
        resamples=resamples,
        level=level,
        rng=np.random.default_rng(seed),
    )
    return Bootstrap(
        level, resamples, seed, unit, len(units), dict(zip(FIGURES, found, strict=True))
    )


def intervals(
    above: NDArray[np.float64],
    below: NDArray[np.float64],
    *,
    resamples: int,
    level: float,
    rng: np.random.Generator,
) -> list[Interval | None]:
    """Intervals of the ratios of sums: above [N, F] over below [N, F].

    None for a figure without a value, which is one whose sum below the line is 0, and for N below
    2. Resamples in which a figure has no value do not count for it.
    """
    n, figures = above.shape
    if n < 2:  # drawn again and again, one unit is always itself
        return [None] * figures
    both = np.concatenate([above, below], axis=1)
    sums = np.concatenate(list(_resampled(both, resamples, rng)))  # [R, 2F]
    tail = _tail(level, n)
    found: list[Interval | None] = []
    for figure in range(figures):
        over, under = sums[:, figure], sums[:, figures + figure]
        ratios = over[under > 0] / under[under > 0]
        if below[:, figure].sum() <= 0 or not len(ratios):
            found.append(None)
            continue
        low, high = np.quantile(ratios, [tail, 1 - tail])
        found.append((float(low), float(high)))
    return found


def quantities(evaluation: Evaluation) -> NDArray[np.float64]:
    """What the figures are made of, for each scored utterance: [utterances, QUANTITIES]."""
    rows = [
        (
            one.words.substitutions, one.words.deletions, one.words.insertions,
            one.words.reference, one.characters.errors, one.characters.reference,
            one.words.errors > 0, 1, record.duration, record.seconds,
        )
        for record, one in zip(evaluation.scored, evaluation.score.utterances, strict=True)
    ]  # fmt: skip
    return np.array(rows, dtype=np.float64).reshape(-1, len(QUANTITIES))


def group_sums(values: NDArray[np.float64], labels: Sequence[object]) -> NDArray[np.float64]:
    """Rows [., K] with the same label added up: [N, K], in the order in which labels come."""
    places: dict[object, int] = {}
    index = np.array([places.setdefault(label, len(places)) for label in labels], dtype=np.int64)
    sums = np.zeros((len(places), values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def _unit(record: Record, number: int, by_speaker: bool) -> tuple[object, ...]:
    """What is drawn as one; speakers of two sources are two, whatever they are called."""
    if not by_speaker or record.speaker is None:
        return (number,)
    return (record.set, record.source, record.speaker)


def _resampled(
    values: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Sums of the rows of `values` [N, K] over resamples, in parts [., K] of R together."""
    n = len(values)
    parts = []
    step = max(1, _CELLS // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        parts.append(weights @ values)
    return parts


def _tail(level: float, n: int) -> float:
    """The share to cut off at each end, Hesterberg's: that of a normal distribution beyond
    sqrt(n / (n - 1)) times Student's quantile with n - 1 degrees of freedom."""
    normal = NormalDist()
    z = normal.inv_cdf((1 + level) / 2)
    v = n - 1
    # Student's quantile by Cornish and Fisher's expansion; above 5 degrees good to three digits.
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return normal.cdf(-t * math.sqrt(n / v))
