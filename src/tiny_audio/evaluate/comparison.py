"""Two recognisers on the same utterances: which is better, by how much, where, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.results import Evaluation, Record, System
from tiny_audio.evaluate.statistics import (
    UNKNOWN,
    PairedBootstrap,
    divide,
    group_sums,
    paired_bootstrap,
    resampling_units,
)
from tiny_audio.evaluate.tables import MARKS, Section, marked, percent

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
        a, b = self.a.score.words.errors, self.b.score.words.errors
        return None if a == b else self.names[b < a]

    @property
    def significant(self) -> bool:
        """Whether the difference is more than luck, at the level of 5 % of the bootstrap."""
        return self.better is not None and self.bootstrap.p < LEVEL

    @property
    def differences(self) -> list[int]:
        """Word errors of B less those of A, for each utterance."""
        pairs = zip(self.a.score.utterances, self.b.score.utterances, strict=True)
        return [two.words.errors - one.words.errors for one, two in pairs]

    def divide(self, kind: str) -> dict[str, tuple[Evaluation, Evaluation]]:
        """Both by one of `statistics.BREAKDOWNS`, as A's records are divided."""
        position = {id(record): i for i, record in enumerate(self.a.records)}
        return {
            name: (part, self.b.select([position[id(record)] for record in part.records]))
            for name, part in divide(self.a, kind).items()
        }


def compare(one: System, other: System) -> Comparison:
    """Compare `other` (B) with `one` (A).

    Raises ConfigError where they were scored under different rules, DataError where they have no
    utterance, or no reference word, in common.
    """
    rules = one.evaluation.rule, other.evaluation.rule
    if rules[0] != rules[1]:
        raise ConfigError(
            f"{one.name} is scored under {rules[0]} and {other.name} under {rules[1]}: figures of "
            "two rules do not compare, score both under one."
        )
    positions, left_out = _common(one, other)
    a = one.evaluation.select([i for i, _ in positions])
    b = other.evaluation.select([j for _, j in positions])
    if not a.score.words.reference:
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "no reference words"
        raise DataError(
            f"{one.name} and {other.name} cannot be compared, they share no utterance with words "
            f"({why}): evaluate both on one set."
        )
    counts = [
        (x.words.errors, y.words.errors, x.words.reference)
        for x, y in zip(a.score.utterances, b.score.utterances, strict=True)
    ]
    units, unit = resampling_units(a.records)
    sums = group_sums(np.array(counts, dtype=np.float64), units)  # [N, 3]
    return Comparison((one.name, other.name), a, b, left_out, paired_bootstrap(*sums.T), unit)


def _common(one: System, other: System) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Positions of the utterances that both have scored; those that one has not, by reason."""
    ids = [[record.id for record in system.evaluation.records] for system in (one, other)]
    by_id = all(len(set(names)) == len(names) for names in ids)
    left, right = (_keys(system.evaluation.records, by_id) for system in (one, other))
    left_out: Counter[str] = Counter()
    positions = []
    for key in dict.fromkeys((*left, *right)):
        i, j = left.get(key), right.get(key)
        x = None if i is None else one.evaluation.scores[i]
        y = None if j is None else other.evaluation.scores[j]
        if x is None and y is not None:
            left_out[f"{'missing' if i is None else 'failed'} in {one.name}"] += 1
        elif y is None and x is not None:
            left_out[f"{'missing' if j is None else 'failed'} in {other.name}"] += 1
        elif x is not None and y is not None and x.reference != y.reference:
            left_out["with different references"] += 1
        elif i is not None and j is not None and x is not None:
            positions.append((i, j))
    return positions, left_out


def _keys(records: Sequence[Record], by_id: bool) -> dict[Hashable, int]:
    """What names an utterance -> its position: its id where that is enough, else its set too, and
    its number among those of one name."""
    if by_id:
        return {record.id: position for position, record in enumerate(records)}
    times: Counter[Hashable] = Counter()
    found: dict[Hashable, int] = {}
    for position, record in enumerate(records):
        name = (record.set, record.source, record.id)
        found[name, times[name]] = position
        times[name] += 1
    return found


# --------------------------------------------------------------------------------------- in words


def conclusion(comparison: Comparison) -> str:
    """Which is better, by how much and how surely, in a few sentences."""
    a, b = comparison.names
    wer = {a: comparison.a.score.wer, b: comparison.b.score.wer}
    drawn, better = comparison.bootstrap, comparison.better
    if better is None:
        text = f"No difference: both have a word error rate of {percent(wer[a])}"
    else:
        rates = f"{percent(wer[better])} against {percent(wer[a if better == b else b])}"
        text = f"{better} is better: WER {rates}"
        if not comparison.significant:
            text = (
                f"No difference is shown: {better} has the lower WER, {rates}, but it may be luck"
            )
    units = " or ".join(f"{word}s" for word in comparison.unit.split(" or "))
    low, high = drawn.interval
    text += (
        f"; difference {points(drawn.difference)} points of WER ({b} less {a}; 95 % interval "
        f"{points(low)} to {points(high)}), p = {p_value(drawn.p)} by paired bootstrap over "
        f"{drawn.units} {units}."
    )
    if drawn.units < FEW:
        text += f" With only {drawn.units} {units} p is not to be trusted."
    if comparison.left_out:
        reasons = ", ".join(f"{n} {reason}" for reason, n in comparison.left_out.items())
        text += f" Compared on {len(comparison.a.records)} common utterances; left out: {reasons}."
    return text


def sections(comparison: Comparison, top: int) -> Iterator[Section]:
    """Who wins where, then the utterances that changed most."""
    yield from breakdown_sections(comparison)
    rows = []
    differences = comparison.differences
    changed = sorted(
        (i for i, n in enumerate(differences) if n), key=lambda i: -abs(differences[i])
    )
    for i in changed[:top]:
        texts = (
            f"{name}: {marked(part.score.utterances[i].alignment)}"
            for name, part in zip(comparison.names, (comparison.a, comparison.b), strict=True)
        )
        rows.append((comparison.a.records[i].id, f"{differences[i]:+d}", "\n".join(texts)))
    note = f"errors: of {comparison.names[1]} less those of {comparison.names[0]}. {MARKS}"
    yield Section("Most changed", ("id", "errors", "texts"), rows, note, text=(0, 2))


def breakdown_sections(comparison: Comparison) -> Iterator[Section]:
    """On how many utterances each is better; then by set, duration and speaker, where known."""
    a, b = comparison.names
    differences = comparison.differences
    counts = {
        f"{a} has fewer errors": sum(d > 0 for d in differences),
        f"{b} has fewer errors": sum(d < 0 for d in differences),
        "as many": sum(d == 0 for d in differences),
    }
    outcomes = [(name, str(n), percent(n / len(differences))) for name, n in counts.items()]
    yield Section("Utterances", ("outcome", "utterances", "share"), outcomes)
    for kind in ("set", "duration", "speaker"):
        found = comparison.divide(kind)
        if not found.keys() - {UNKNOWN}:
            continue
        most = sorted(found, key=lambda name: -found[name][0].score.words.reference)[:SPEAKERS]
        rows = []
        for name in most if kind == "speaker" else found:
            x, y = (part.score.words for part in found[name])
            gap = points(y.rate - x.rate) if x.rate is not None and y.rate is not None else "–"
            winner = comparison.names[y.errors < x.errors] if x.errors != y.errors else "–"
            sizes = (str(len(found[name][0].records)), str(x.reference))
            rows.append((name, *sizes, percent(x.rate), percent(y.rate), gap, winner))
        columns = ("part", "utts", "words", a, b, "points", "fewer errors")
        yield Section(f"By {kind}", columns, rows, text=(0, 6))


def points(rate: float) -> str:
    """A difference of two rates, in percentage points."""
    return f"{100 * rate:+.2f}"


def p_value(p: float) -> str:
    """A p-value to two figures, as small as it is worth saying."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.4f}" if p < LEVEL else f"{p:.2f}"
