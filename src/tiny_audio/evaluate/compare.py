"""Two recognisers on the same utterances: which is better, by how much, where, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.bootstrap import group_sums
from tiny_audio.evaluate.breakdown import parts
from tiny_audio.evaluate.records import Evaluation, Record
from tiny_audio.evaluate.significance import (
    RESAMPLES,
    MatchedPairs,
    PairedBootstrap,
    matched_pairs,
    paired_bootstrap,
    segments,
)
from tiny_audio.evaluate.systems import System, select

LEVEL = 0.05  # p below which a difference counts as shown


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
        """Places of the utterances whose errors differ, the most changed first."""
        differences = self.differences
        places = [i for i, difference in enumerate(differences) if difference]
        return sorted(places, key=lambda i: -abs(differences[i]))

    def parts(self, kind: str) -> dict[str, tuple[Evaluation, Evaluation]]:
        """Both in parts, by one of `breakdown.BREAKDOWNS`, as A's records are divided."""
        place = {id(record): i for i, record in enumerate(self.a.records)}
        return {
            name: (part, select(self.b, [place[id(record)] for record in part.records]))
            for name, part in parts(self.a, kind).items()
        }


def compare(one: System, other: System, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
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
    places, left_out = _common(one, other)
    a = select(one.evaluation, [i for i, _ in places])
    b = select(other.evaluation, [j for _, j in places])
    if not a.score.words.reference:
        said = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "no reference words"
        raise DataError(
            f"{one.name} and {other.name} cannot be compared, they share no utterance with words "
            f"({said}): evaluate both on one set."
        )
    errors = [[u.words.errors for u in e.score.utterances] for e in (a, b)]
    words = [u.words.reference for u in a.score.utterances]
    units, unit = _units(a.records)
    sums = group_sums(np.array([*errors, words], dtype=np.float64).T, units)  # [N, 3]
    pieces = [
        piece
        for x, y in zip(a.score.utterances, b.score.utterances, strict=True)
        for piece in segments(x.alignment, y.alignment)
    ]
    apart = np.array([[float(y - x)] for x, y in pieces]).reshape(-1, 1)
    return Comparison(
        (one.name, other.name),
        a,
        b,
        left_out,
        paired_bootstrap(*sums.T, resamples=resamples, seed=seed),
        unit,
        matched_pairs(apart)[0],
    )


def _common(one: System, other: System) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Places of the same utterance in both, and how many have no counterpart, by reason."""
    scored = one.evaluation.scored, other.evaluation.scored
    ids = [[record.id for record in system.evaluation.records] for system in (one, other)]
    plain = all(len(set(names)) == len(names) for names in ids)
    left, right = _keys(scored[0], plain), _keys(scored[1], plain)
    failed = [
        {record.id for record in system.evaluation.records if record.error is not None}
        for system in (one, other)
    ]
    texts = one.evaluation.score.utterances, other.evaluation.score.utterances
    left_out: Counter[str] = Counter()
    places = []
    for key, i in left.items():
        if key not in right:
            reason = "failed" if key[-1] in failed[1] else "missing"
            left_out[f"{reason} in {other.name}"] += 1
        elif texts[0][i].reference != texts[1][right[key]].reference:
            left_out["with different references"] += 1
        else:
            places.append((i, right[key]))
    for key in right.keys() - left.keys():
        reason = "failed" if key[-1] in failed[0] else "missing"
        left_out[f"{reason} in {one.name}"] += 1
    return places, left_out


def _keys(records: Sequence[Record], plain: bool) -> dict[tuple[object, ...], int]:
    """What names an utterance -> its place: its id where that is enough, else its set too, and
    its number among those of one name."""
    if plain:
        return {(record.id,): place for place, record in enumerate(records)}
    times: Counter[tuple[object, ...]] = Counter()
    found: dict[tuple[object, ...], int] = {}
    for place, record in enumerate(records):
        name = (record.set, record.source, record.id)
        found[(name[0], name[1], times[name], name[2])] = place
        times[name] += 1
    return found


def _units(records: Sequence[Record]) -> tuple[list[tuple[object, ...]], str]:
    """What the bootstrap draws as one: a speaker where known, else an utterance."""
    units: list[tuple[object, ...]] = [
        (number,) if record.speaker is None else (record.set, record.source, record.speaker)
        for number, record in enumerate(records)
    ]
    named = sum(record.speaker is not None for record in records)
    if not named or len(set(units)) < 2:
        return [(number,) for number in range(len(records))], "utterance"
    return units, "speaker" if named == len(records) else "speaker or utterance"
