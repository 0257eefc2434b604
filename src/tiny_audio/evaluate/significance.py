"""Is one recogniser better than another, or was it luck? Two tests on the same utterances.

**Paired bootstrap** (Bisani and Ney 2004): whole speakers, or utterances where speakers are not
known, are drawn anew with replacement, and both systems are counted on what was drawn. p is twice
the share of draws in which the worse one comes out no worse.

**Matched pairs** (MAPSSWE, Gillick and Cox 1989): utterances are cut wherever both systems have
two words right in a row; the pieces with an error are taken for independent, and the mean
difference of their error counts is compared with its standard error.

Legend: N units that are drawn, R resamples, K segments, M comparisons made at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiny_audio.evaluate.wer import AlignedWord

Floats = NDArray[np.float64]

RESAMPLES = 5000
BUFFER = 2  # words that both have right between two segments
FEW = 10  # units below which a bootstrap is not to be trusted
_CELLS = 1 << 21  # weights that are held in memory at once


@dataclass(frozen=True)
class PairedBootstrap:
    """Difference of two word error rates, B less A: negative where B is better.

    interval: its middle 95 %, two rates. p: two-sided. units: how many were drawn from.
    """

    difference: float
    interval: tuple[float, float]
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
    errors_a: Floats, errors_b: Floats, words: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedBootstrap:
    """Compare two systems by the counts of N units, each [N]; the same seed, the same answer.

    Raises ValueError where there are no reference words.
    """
    if not words.sum() > 0:
        raise ValueError("no reference words")
    values = np.stack([errors_b - errors_a, words], axis=1).astype(np.float64)  # [N, 2]
    drawn = np.concatenate([w @ values for w in draws(len(values), resamples, seed)])  # [R, 2]
    full = drawn[drawn[:, 1] > 0]
    low, high = np.quantile(full[:, 0] / full[:, 1], [0.025, 0.975])
    difference, total = values.sum(axis=0)
    return PairedBootstrap(
        float(difference / total),
        (float(low), float(high)),
        float(crossing_p(drawn[:, :1])[0]),
        len(values),
        resamples,
    )


def draws(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of N units is drawn in each of R resamples: [R, N], in parts [., N]."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(n, 1))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        units = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        yield np.bincount(units.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def crossing_p(drawn: Floats) -> Floats:
    """Two-sided p [M] of differences drawn anew [R, M]: how often they cross zero."""
    below, above = (drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0)
    p: Floats = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (len(drawn) + 1))
    return p


def matched_pairs(differences: Floats) -> list[MatchedPairs]:
    """Test whether errors of B less errors of A, [K, M] by segment, have mean zero.

    The normal distribution stands for Student's, as in Gillick and Cox: with fewer than about 50
    segments p is a little too small. Without segments, or where all are equal to zero, p is 1.
    """
    k = len(differences)
    found = []
    for column in differences.T:
        mean = float(column.mean()) if k else 0.0
        error = float(column.std(ddof=1)) / math.sqrt(k) if k > 1 else 0.0
        if mean == 0.0 or k < 2:
            found.append(MatchedPairs(0.0, 1.0, k))
            continue
        z = mean / error if error else math.copysign(math.inf, mean)
        found.append(MatchedPairs(z, math.erfc(abs(z) / math.sqrt(2)), k))
    return found


def segments(
    one: Sequence[AlignedWord], other: Sequence[AlignedWord], buffer: int = BUFFER
) -> list[tuple[int, int]]:
    """Errors of both systems in each piece of an utterance that has any.

    Pieces are apart by at least `buffer` reference words that both have right, with nothing
    inserted between them. Raises ValueError where the two alignments are of different references.
    """
    a, b = _slots(one), _slots(other)
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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment (1979) for several comparisons, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted


def _slots(alignment: Sequence[AlignedWord]) -> list[int]:
    """Errors before the first word, at it, before the second, at it, ..., after the last."""
    slots = [0]
    for step in alignment:
        if step.op == "insert":
            slots[-1] += 1
        else:
            slots += [int(step.op != "equal"), 0]
    return slots
