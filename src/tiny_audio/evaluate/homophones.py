"""Words that sound alike: which errors no ear could have avoided.

A recogniser that hears "there" and writes "their" has heard well and written badly. The word error
rate with homophones forgiven is the least number of errors when phrases of one group of
`homophones.txt` (English) may stand for each other; what is left was misheard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from tiny_audio.evaluate.records import Evaluation
from tiny_audio.evaluate.wer import UtteranceScore

_LONGEST = 2  # words in a phrase of the list


class HomophonePair(NamedTuple):
    """One phrase written for another that sounds the same."""

    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Forgiven:
    """An evaluation's word errors with homophones forgiven.

    pairs: how often each was written for the other. examples: pair -> ids of utterances.
    """

    errors: int
    errors_before: int
    reference_words: int
    pairs: Counter[HomophonePair]
    examples: dict[HomophonePair, list[str]]

    @property
    def wer(self) -> float | None:
        """None where there is no reference word."""
        return self.errors / self.reference_words if self.reference_words else None

    @property
    def wer_before(self) -> float | None:
        """The same without forgiveness."""
        return self.errors_before / self.reference_words if self.reference_words else None


def forgive(evaluation: Evaluation) -> Forgiven:
    """Count an evaluation's word errors anew, with homophones forgiven.

    Works on the words as the scoring rule left them: a contraction that the rule has spelled out
    ("they are") counts as the contraction.
    """
    errors = 0
    pairs: Counter[HomophonePair] = Counter()
    examples: dict[HomophonePair, list[str]] = {}
    for record, one in zip(evaluation.scored, evaluation.score.utterances, strict=True):
        left, found = _forgive_one(one)
        errors += left
        pairs.update(found)
        for pair in dict.fromkeys(found):
            examples.setdefault(pair, []).append(record.id)
    words = evaluation.score.words
    return Forgiven(errors, words.errors, words.reference, pairs, examples)


def are_homophones(one: str, other: str) -> bool:
    """Whether two phrases (lower case) are different and stand in one group."""
    table = groups()
    return one != other and bool(table.get(one, _NONE) & table.get(other, _NONE))


@cache
def groups() -> dict[str, frozenset[int]]:
    """Phrase -> numbers of the groups that it stands in."""
    text = files("tiny_audio.evaluate").joinpath("homophones.txt").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    found: dict[str, frozenset[int]] = {}
    for number, line in enumerate(lines):
        for phrase in line.split(","):
            found[phrase.strip()] = found.get(phrase.strip(), _NONE) | {number}
    return found


_NONE: frozenset[int] = frozenset()
_Phrases = list[list[tuple[int, str, frozenset[int]]]]  # at each word: length, phrase, groups


def _forgive_one(one: UtteranceScore) -> tuple[int, list[HomophonePair]]:
    """Errors that are left in an utterance, and the pairs that were forgiven."""
    if not one.words.errors:
        return 0, []
    reference, hypothesis = one.reference.split(), one.hypothesis.split()
    left, right = _phrases(reference), _phrases(hypothesis)
    if not _can_help(left, right):
        return one.words.errors, []
    return _align(reference, hypothesis, left, right)


def _phrases(words: Sequence[str]) -> _Phrases:
    """The phrases of the list that end at each word."""
    table = groups()
    found: _Phrases = []
    for end in range(1, len(words) + 1):
        here = []
        for length in range(1, min(_LONGEST, end) + 1):
            phrase = " ".join(words[end - length : end])
            if phrase in table:
                here.append((length, phrase, table[phrase]))
        found.append(here)
    return found


def _can_help(left: _Phrases, right: _Phrases) -> bool:
    """Whether any group is met on both sides with more than one of its members."""
    sides: list[dict[int, set[str]]] = []
    for phrases in (left, right):
        members: dict[int, set[str]] = {}
        for _, phrase, numbers in (phrase for here in phrases for phrase in here):
            for number in numbers:
                members.setdefault(number, set()).add(phrase)
        sides.append(members)
    return any(len(sides[0][g] | sides[1][g]) > 1 for g in sides[0].keys() & sides[1].keys())


def _align(
    reference: Sequence[str], hypothesis: Sequence[str], left: _Phrases, right: _Phrases
) -> tuple[int, list[HomophonePair]]:
    """Levenshtein's recursion with one step more: homophonous phrases stand for each other."""
    cost = [list(range(len(hypothesis) + 1))]
    steps: dict[tuple[int, int], tuple[int, int, HomophonePair]] = {}  # where a pair was the best
    for i, word in enumerate(reference, 1):
        row = [i]
        for j, other in enumerate(hypothesis, 1):
            best = min(cost[i - 1][j - 1] + (word != other), cost[i - 1][j] + 1, row[j - 1] + 1)
            for a, phrase, numbers in left[i - 1]:
                for b, heard, others in right[j - 1]:
                    if phrase == heard or not numbers & others:
                        continue
                    before = cost[i - a][j - b]
                    if before < best:
                        best = before
                        steps[i, j] = (a, b, HomophonePair(phrase, heard))
            row.append(best)
        cost.append(row)
    pairs: list[HomophonePair] = []
    i, j = len(reference), len(hypothesis)
    while i and j:
        if (i, j) in steps:
            a, b, pair = steps[i, j]
            pairs.append(pair)
            i, j = i - a, j - b
        elif cost[i][j] == cost[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1]):
            i, j = i - 1, j - 1
        elif cost[i][j] == cost[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return cost[-1][-1], pairs[::-1]
