"""Two recognisers on the same utterances: which is better, by how much, where, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.results import Evaluation, Record, System
from tiny_audio.evaluate.statistics import (
    PAIRED_RESAMPLES,
    UNKNOWN,
    MatchedPairs,
    PairedBootstrap,
    divide,
    group_sums,
    matched_pairs,
    paired_bootstrap,
    resampling_units,
    segments,
)
from tiny_audio.evaluate.tables import MARKS, Section, marked, percent

LEVEL = 0.05  # p below which a difference counts as shown
FEW = 10  # units below which a bootstrap is not to be trusted
SPEAKERS = 20  # that are listed, those with the most words first


@dataclass(frozen=True)
class Comparison:
    """System B against system A, on the utterances that both have scored.

    a, b: the same utterances in the same order. left_out: how many were not compared, by reason.
    unit: what the bootstrap draws.
    """

    names: tuple[str, str]
    a: Evaluation
    b: Evaluation
    left_out: Counter[str]
    bootstrap: PairedBootstrap
    unit: str
    matched: MatchedPairs

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

    def changed(self) -> list[int]:
        """Positions of the utterances whose errors differ, the most changed first."""
        differences = self.differences
        positions = [i for i, difference in enumerate(differences) if difference]
        return sorted(positions, key=lambda i: -abs(differences[i]))

    def divide(self, kind: str) -> dict[str, tuple[Evaluation, Evaluation]]:
        """Both by one of `statistics.BREAKDOWNS`, as A's records are divided."""
        position = {id(record): i for i, record in enumerate(self.a.records)}
        return {
            name: (part, self.b.select([position[id(record)] for record in part.records]))
            for name, part in divide(self.a, kind).items()
        }


def compare(
    one: System, other: System, *, resamples: int = PAIRED_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare `other` (B) with `one` (A).

    Raises:
        ConfigError: they were scored under different rules.
        DataError: they have no utterance, or no reference word, in common.
    """
    rules = one.evaluation.score.rule, other.evaluation.score.rule
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
    pairs = list(zip(a.score.utterances, b.score.utterances, strict=True))
    counts = [(x.words.errors, y.words.errors, x.words.reference) for x, y in pairs]
    units, unit = resampling_units(a.records)
    sums = group_sums(np.array(counts, dtype=np.float64), units)  # [N, 3]
    pieces = [piece for x, y in pairs for piece in segments(x.alignment, y.alignment)]
    return Comparison(
        names=(one.name, other.name),
        a=a,
        b=b,
        left_out=left_out,
        bootstrap=paired_bootstrap(*sums.T, resamples=resamples, seed=seed),
        unit=unit,
        matched=matched_pairs(np.array([float(y - x) for x, y in pieces])),
    )


def _common(one: System, other: System) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Positions of the same utterance in both, and how many have no counterpart, by reason."""
    systems = (one, other)
    ids = [[record.id for record in system.evaluation.records] for system in systems]
    by_id = all(len(set(names)) == len(names) for names in ids)
    left, right = (_keys(system.evaluation.scored, by_id) for system in systems)
    failed = [{r.id for r in s.evaluation.records if r.error is not None} for s in systems]
    texts = [[u.reference for u in system.evaluation.score.utterances] for system in systems]
    left_out: Counter[str] = Counter()
    positions = []
    for key, i in left.items():
        if key not in right:
            reason = "failed" if key[-1] in failed[1] else "missing"
            left_out[f"{reason} in {other.name}"] += 1
        elif texts[0][i] != texts[1][right[key]]:
            left_out["with different references"] += 1
        else:
            positions.append((i, right[key]))
    for key in right.keys() - left.keys():
        reason = "failed" if key[-1] in failed[0] else "missing"
        left_out[f"{reason} in {one.name}"] += 1
    return positions, left_out


def _keys(records: Sequence[Record], by_id: bool) -> dict[tuple[object, ...], int]:
    """What names an utterance -> its position: its id where that is enough, else its set too, and
    its number among those of one name."""
    if by_id:
        return {(record.id,): position for position, record in enumerate(records)}
    times: Counter[tuple[object, ...]] = Counter()
    found: dict[tuple[object, ...], int] = {}
    for position, record in enumerate(records):
        name = (record.set, record.source, record.id)
        found[record.set, record.source, times[name], record.id] = position
        times[name] += 1
    return found


# --------------------------------------------------------------------------------------- in words


def conclusion(comparison: Comparison) -> str:
    """Which is better, by how much and how surely, in a few sentences."""
    a, b = comparison.names
    wer = {a: comparison.a.score.wer, b: comparison.b.score.wer}
    drawn, matched = comparison.bootstrap, comparison.matched
    better = comparison.better
    units = " or ".join(f"{word}s" for word in comparison.unit.split(" or "))
    low, high = drawn.interval
    figures = (
        f"difference {points(drawn.difference)} points of WER ({b} less {a}; 95 % interval "
        f"{points(low)} to {points(high)}), p = {p_value(drawn.p)} by paired bootstrap over "
        f"{drawn.units} {units}, p = {p_value(matched.p)} by matched pairs over "
        f"{matched.segments} segments"
    )
    if better is None:
        first = f"No difference: both have a word error rate of {percent(wer[a])}"
    else:
        rates = f"{percent(wer[better])} against {percent(wer[a if better == b else b])}"
        first = f"{better} is better: WER {rates}"
        if not comparison.significant:
            first = (
                f"No difference is shown: {better} has the lower WER, {rates}, but it may be luck"
            )
    warning = ""
    if drawn.units < FEW:
        warning = f" With only {drawn.units} {units} p is not to be trusted."
    rest = ""
    if comparison.left_out:
        reasons = ", ".join(f"{n} {reason}" for reason, n in comparison.left_out.items())
        rest = f" Compared on {len(comparison.a.records)} common utterances; left out: {reasons}."
    return f"{first}; {figures}.{warning}{rest}"


def overview_section(found: Sequence[Comparison], adjusted: Sequence[float]) -> Section:
    """One row a system: its rate, its difference to the first and both tests."""
    several = len(found) > 1
    rows = []
    for one, p in zip(found, adjusted, strict=True):
        low, high = one.bootstrap.interval
        rows.append(
            (
                one.names[1],
                str(len(one.a.records)),
                percent(one.a.score.wer),
                percent(one.b.score.wer),
                points(one.bootstrap.difference),
                f"{points(low)} {points(high)}",
                p_value(one.bootstrap.p),
                *([p_value(p)] if several else []),
                p_value(one.matched.p),
            )
        )
    first = found[0].names[0]
    columns = ["system", "utts", f"WER, {first}", "WER", "points", "95 % interval", "p"]
    columns += ["p, Holm", "p, MAPSSWE"] if several else ["p, MAPSSWE"]
    note = f"scoring {found[0].a.score.rule}; negative points: fewer errors than {first}"
    return Section(f"Against {first}", columns, rows, note)


def breakdown_sections(comparison: Comparison) -> Iterator[Section]:
    """On how many utterances each is better; then by set, duration and speaker, where known."""
    a, b = comparison.names
    differences = comparison.differences
    counts = {
        f"{a} has fewer errors": sum(d > 0 for d in differences),
        f"{b} has fewer errors": sum(d < 0 for d in differences),
        "as many": sum(d == 0 for d in differences),
    }
    rows = [(name, str(n), percent(n / len(differences))) for name, n in counts.items()]
    yield Section("Utterances", ("outcome", "utterances", "share"), rows)
    for kind in ("set", "duration", "speaker"):
        found = comparison.divide(kind)
        if kind == "speaker":
            most = sorted(found, key=lambda name: -found[name][0].score.words.reference)
            found = {name: found[name] for name in most[:SPEAKERS]}
        if found.keys() - {UNKNOWN}:
            yield _parts_section(f"By {kind}", comparison.names, found)


def _parts_section(
    title: str, names: tuple[str, str], parts: Mapping[str, tuple[Evaluation, Evaluation]]
) -> Section:
    """Both word error rates in each part, and whose is lower."""
    rows = []
    for name, (a, b) in parts.items():
        x, y = a.score.words, b.score.words
        winner = names[y.errors < x.errors] if x.errors != y.errors else "–"
        gap = points(y.rate - x.rate) if x.rate is not None and y.rate is not None else "–"
        figures = (str(len(a.records)), str(x.reference), percent(x.rate), percent(y.rate), gap)
        rows.append((name, *figures, winner))
    columns = ("part", "utts", "words", *names, "points", "fewer errors")
    return Section(title, columns, rows, text=(0, 6))


def changed_section(comparison: Comparison, top: int) -> Section:
    """The utterances whose word errors differ most, with both texts."""
    rows = []
    differences = comparison.differences
    for i in comparison.changed()[:top]:
        texts = (
            f"{name}: {marked(evaluation.score.utterances[i].alignment)}"
            for name, evaluation in zip(comparison.names, (comparison.a, comparison.b), strict=True)
        )
        rows.append((comparison.a.records[i].id, f"{differences[i]:+d}", "\n".join(texts)))
    note = f"errors: of {comparison.names[1]} less those of {comparison.names[0]}. {MARKS}"
    return Section("Most changed", ("id", "errors", "texts"), rows, note, text=(0, 2))


def points(rate: float) -> str:
    """A difference of two rates, in percentage points."""
    return f"{100 * rate:+.2f}"


def p_value(p: float) -> str:
    """A p-value to two figures, as small as it is worth saying."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.4f}" if p < LEVEL else f"{p:.2f}"
