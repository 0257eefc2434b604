"""Two recognisers on the same utterances: which is better, by how much, where, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from tiny_audio.errors import DataError
from tiny_audio.evaluate.results import Evaluation, Record
from tiny_audio.evaluate.statistics import (
    UNKNOWN,
    PairedBootstrap,
    divide,
    group_sums,
    paired_bootstrap,
    resampling_units,
)
from tiny_audio.evaluate.tables import MARKS, Section, marked, percent
from tiny_audio.text.scoring import require_same_rule

LEVEL = 0.05  # p below which a difference counts as shown
FEW = 10  # units below which a bootstrap is not to be trusted
SPEAKERS = 20  # that are listed, those with the most words first


@dataclass(frozen=True)
class Comparison:
    """System B against system A, on the utterances that both have scored, in the same order.

    left_out: how many were not compared, by reason. unit: what the bootstrap draws.
    """

    names: tuple[str, str]
    a: Evaluation
    b: Evaluation
    left_out: Counter[str]
    bootstrap: PairedBootstrap
    unit: str

    @property
    def better(self) -> str | None:
        """Name of the system with fewer word errors; None where both have as many."""
        difference = self.bootstrap.difference
        return self.names[difference < 0] if difference else None

    @property
    def differences(self) -> list[int]:
        """Word errors of B less those of A, for each utterance."""
        pairs = zip(self.a.score.utterances, self.b.score.utterances, strict=True)
        return [two.words.errors - one.words.errors for one, two in pairs]

    def divide(self, kind: str) -> dict[str, tuple[Evaluation, Evaluation]]:
        """Both by one of `statistics.BREAKDOWNS`, as A's records are divided."""
        parts = divide(self.a, kind)
        return {name: (self.a.select(at), self.b.select(at)) for name, at in parts.items()}


def compare(systems: Mapping[str, Evaluation]) -> Comparison:
    """Compare the second of two systems (B) with the first (A).

    Raises ConfigError for scores under two rules, DataError where they share no reference word.
    """
    (one, left), (other, right) = systems.items()
    require_same_rule((left.rule, right.rule))
    positions, left_out = _common(systems)
    a, b = left.select([i for i, _ in positions]), right.select([j for _, j in positions])
    if not a.score.words.reference:
        raise DataError(
            f"{one} and {other} cannot be compared, they share no utterance with words "
            f"({_listed(left_out) or 'no reference words'}): evaluate both on one set."
        )
    counts = [
        (x.words.errors, y.words.errors, x.words.reference)
        for x, y in zip(a.score.utterances, b.score.utterances, strict=True)
    ]
    units, unit = resampling_units(a.records)
    sums = group_sums(np.array(counts, dtype=np.float64), units)  # [N, 3]
    return Comparison((one, other), a, b, left_out, paired_bootstrap(*sums.T), unit)


def _common(systems: Mapping[str, Evaluation]) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Positions of the utterances that both have scored; those that one has not, by reason.

    Utterances are found again by their ids where these are unique, else by set and source too.
    """
    (one, left), (other, right) = systems.items()
    keys: list[Callable[[Record], Any]] = [lambda r: r.id, lambda r: (r.set, r.source, r.id)]
    first, second = (found.positions(keys[0]) for found in (left, right))
    if any(len(at) > 1 for at in (*first.values(), *second.values())):
        first, second = (found.positions(keys[1]) for found in (left, right))
    positions: list[tuple[int, int]] = []
    left_out: Counter[str] = Counter()
    for key in {**first, **second}:
        for i, j in zip_longest(first.get(key, ()), second.get(key, ())):
            x, y = i is not None and left.scores[i], j is not None and right.scores[j]
            if x and y and x.reference == y.reference:
                positions.append((i, j))
            elif x and y:
                left_out["with different references"] += 1
            elif x or y:
                name, at = (other, j) if x else (one, i)
                left_out[f"{'missing' if at is None else 'failed'} in {name}"] += 1
    return positions, left_out


def conclusion(comparison: Comparison) -> str:
    """Which is better, by how much and how surely, in a few sentences."""
    (a, b), drawn, better = comparison.names, comparison.bootstrap, comparison.better
    wer = {a: comparison.a.score.wer, b: comparison.b.score.wer}
    rates = " against ".join(percent(wer[name]) for name in sorted(wer, key=lambda n: n != better))
    if better is None:
        text = f"No difference: both have a word error rate of {percent(wer[a])}"
    elif drawn.p < LEVEL:
        text = f"{better} is better: WER {rates}"
    else:
        text = f"No difference is shown: {better} has the lower WER, {rates}, but it may be luck"
    units = " or ".join(f"{word}s" for word in comparison.unit.split(" or "))
    points, low, high = (f"{100 * rate:+.2f}" for rate in (drawn.difference, *drawn.interval))
    text += (
        f"; difference {points} points of WER ({b} less {a}; 95 % interval {low} to {high}), "
        f"p = {drawn.p:.2g} by paired bootstrap over {drawn.units} {units}."
    )
    if drawn.units < FEW:
        text += f" With only {drawn.units} {units} p is not to be trusted."
    if left_out := _listed(comparison.left_out):
        text += f" Compared on {len(comparison.a.records)} common utterances; left out: {left_out}."
    return text


def _listed(left_out: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in left_out.items())


def sections(comparison: Comparison, top: int) -> Iterator[Section]:
    """Who wins where, then the utterances that changed most."""
    yield from breakdown_sections(comparison)
    (a, b), differences = comparison.names, comparison.differences
    scores = list(zip(comparison.a.score.utterances, comparison.b.score.utterances, strict=True))
    rows = []
    for i in sorted(range(len(scores)), key=lambda i: -abs(differences[i]))[:top]:
        if differences[i]:
            x, y = (marked(one.alignment) for one in scores[i])
            id_, text = comparison.a.records[i].id, f"{a}: {x}\n{b}: {y}"
            rows.append((id_, f"{differences[i]:+d}", text))
    note = f"errors: of {b} less those of {a}. {MARKS}"
    yield Section("Most changed", ("id", "errors", "texts"), rows, note, text=(0, 2))


def breakdown_sections(comparison: Comparison) -> Iterator[Section]:
    """On how many utterances each is better; then by set, duration and speaker, where known."""
    (a, b), differences = comparison.names, comparison.differences
    counts = [sum(d > 0 for d in differences), sum(d < 0 for d in differences), 0]
    counts[2] = len(differences) - sum(counts)
    outcomes = zip(
        (f"{a} has fewer errors", f"{b} has fewer errors", "as many"), counts, strict=True
    )
    shares = [(name, str(n), percent(n / len(differences))) for name, n in outcomes]
    yield Section("Utterances", ("outcome", "utterances", "share"), shares)
    for kind in ("set", "duration", "speaker"):
        found = comparison.divide(kind)
        if not found.keys() - {UNKNOWN}:
            continue
        most = sorted(found, key=lambda name: -found[name][0].score.words.reference)[:SPEAKERS]
        rows = []
        for name in most if kind == "speaker" else found:
            x, y = (part.score.words for part in found[name])
            winner = comparison.names[y.errors < x.errors] if x.errors != y.errors else "–"
            sizes = (str(len(found[name][0].records)), str(x.reference))
            rows.append((name, *sizes, percent(x.rate), percent(y.rate), winner))
        columns = ("part", "utts", "words", a, b, "fewer errors")
        yield Section(f"By {kind}", columns, rows, text=(0, 5))
