"""Two recognisers on the same utterances: which is better, by how much, where, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tiny_audio.errors import ConfigError, DataError
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
        position = {id(record): i for i, record in enumerate(self.a.records)}
        return {
            name: (part, self.b.select([position[id(record)] for record in part.records]))
            for name, part in divide(self.a, kind).items()
        }


def compare(systems: Mapping[str, Evaluation]) -> Comparison:
    """Compare the second of two systems (B) with the first (A).

    Raises ConfigError for scores under two rules, DataError where they share no reference word.
    """
    (one, left), (other, right) = systems.items()
    if left.rule != right.rule:
        raise ConfigError(
            f"{one} is scored under {left.rule} and {other} under {right.rule}: figures of two "
            "rules do not compare, score both under one."
        )
    positions, left_out = _common(systems)
    a, b = left.select([i for i, _ in positions]), right.select([j for _, j in positions])
    if not a.score.words.reference:
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "no reference words"
        raise DataError(
            f"{one} and {other} cannot be compared, they share no utterance with words ({why}): "
            "evaluate both on one set."
        )
    counts = [
        (x.words.errors, y.words.errors, x.words.reference)
        for x, y in zip(a.score.utterances, b.score.utterances, strict=True)
    ]
    units, unit = resampling_units(a.records)
    sums = group_sums(np.array(counts, dtype=np.float64), units)  # [N, 3]
    return Comparison((one, other), a, b, left_out, paired_bootstrap(*sums.T), unit)


def _common(systems: Mapping[str, Evaluation]) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Positions of the utterances that both have scored; those that one has not, by reason."""
    ids = [[record.id for record in found.records] for found in systems.values()]
    by_id = all(len(set(names)) == len(names) for names in ids)
    keys = [_keys(found.records, by_id) for found in systems.values()]
    left_out: Counter[str] = Counter()
    positions = []
    for key in dict.fromkeys(chain(*keys)):
        references, reasons = [], []
        for known, (name, found) in zip(keys, systems.items(), strict=True):
            score = found.scores[known[key]] if key in known else None
            if score is None:
                reasons.append(f"{'failed' if key in known else 'missing'} in {name}")
            else:
                references.append(score.reference)
        if len(reasons) == 1:
            left_out[reasons[0]] += 1
        elif len(set(references)) == 2:
            left_out["with different references"] += 1
        elif references:
            positions.append((keys[0][key], keys[1][key]))
    return positions, left_out


def _keys(records: Sequence[Record], by_id: bool) -> dict[Hashable, int]:
    """Name of an utterance -> its position: its id where that is enough, else its set and source
    too; and its number among those of one name."""
    times: Counter[Hashable] = Counter()
    found: dict[Hashable, int] = {}
    for position, record in enumerate(records):
        name = record.id if by_id else (record.set, record.source, record.id)
        found[name, times[name]] = position
        times[name] += 1
    return found


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
        if drawn.p >= LEVEL:
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
