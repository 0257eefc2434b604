"""Which words go wrong: by pair, and by kind of word.

Everything here is read off the alignments of a scored evaluation; words are as the scoring rule
left them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

from tiny_audio.evaluate.records import Evaluation
from tiny_audio.evaluate.wer import AlignedWord, Counts

FUNCTION_WORDS = frozenset(
    """a about above across after against all along although am among an and another any are around
    as at be because been before behind being below beneath beside between beyond both but by can
    could did do does doing down during each either every few for from had has have having he her
    hers herself him himself his how i if in inside into is it its itself less many may me might
    mine more most much must my myself near neither no nor not of off on once or other ought our
    ours ourselves out outside over own per shall she should since so some such than that the their
    theirs them themselves then there these they this those though through to toward towards under
    unless until up upon us was we were what when where whether which while who whom whose why will
    with within without would yet you your yours yourself""".split()
)
NUMBER_WORDS = frozenset(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred hundreds thousand thousands million millions billion billions dozen first second third
    fourth fifth sixth seventh eighth ninth tenth half quarter""".split()
)
BANDS = ((1, "seen once"), (4, "seen 2 to 4 times"), (19, "seen 5 to 19 times"))
OFTEN = "seen 20 times or more"
NEVER = "never seen"

Key = TypeVar("Key")

_WORD = re.compile(r"(?=.*[a-z])[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.?!:;\"”)\]]$|^[-–—]+$")


@dataclass
class Tally:
    """How often, and in which utterances (ids, each once, in order)."""

    count: int = 0
    ids: dict[str, None] = field(default_factory=dict)

    def note(self, utterance: str) -> None:
        self.count += 1
        self.ids.setdefault(utterance)


@dataclass
class Confusions:
    """Errors by what they are; a pair is (reference, hypothesis).

    boundaries: the same letters with other spaces, such as ("every one", "everyone"); their steps
    are counted in the other three too.
    """

    substitutions: dict[tuple[str, str], Tally] = field(default_factory=dict)
    deletions: dict[str, Tally] = field(default_factory=dict)
    insertions: dict[str, Tally] = field(default_factory=dict)
    boundaries: dict[tuple[str, str], Tally] = field(default_factory=dict)


def confusions(evaluation: Evaluation) -> Confusions:
    """All substitutions, deletions, insertions and misplaced spaces, the most frequent first."""
    found = Confusions()
    for record, one in zip(evaluation.scored, evaluation.score.utterances, strict=True):
        for step in one.alignment:
            if step.op == "substitute":
                pair = (step.reference, step.hypothesis)
                found.substitutions.setdefault(pair, Tally()).note(record.id)
            elif step.op == "delete":
                found.deletions.setdefault(step.reference, Tally()).note(record.id)
            elif step.op == "insert":
                found.insertions.setdefault(step.hypothesis, Tally()).note(record.id)
        for pair in _boundaries(one.alignment):
            found.boundaries.setdefault(pair, Tally()).note(record.id)
    return Confusions(
        _most_first(found.substitutions),
        _most_first(found.deletions),
        _most_first(found.insertions),
        _most_first(found.boundaries),
    )


def word_classes(
    evaluation: Evaluation, seen: Mapping[str, int] | None = None
) -> dict[str, Counts]:
    """Counts of numbers, names, function words, other words, and of words by frequency.

    Substitutions and deletions go to the class of the reference word, insertions to that of the
    inserted one. Numbers, names and function words may overlap; bands of frequency do not.

    Args:
        seen: word -> how often it was seen, for example in training; by default how often it is
            said in the references themselves.
    """
    if seen is None:
        seen = Counter(w for u in evaluation.score.utterances for w in u.reference.split())
    names = proper_names(record.reference for record in evaluation.scored)
    found: dict[str, Counts] = {}
    for one in evaluation.score.utterances:
        for step in one.alignment:
            counts = _COUNTS[step.op]
            word = step.reference or step.hypothesis
            for name in _classes(word, names, seen):
                found[name] = found.get(name, Counts()) + counts
    order = ["numbers", "names", "function words", "other words", OFTEN]
    order += [*(name for _, name in reversed(BANDS)), NEVER]
    return {name: found[name] for name in order if name in found}


def proper_names(references: Iterable[str]) -> set[str]:
    """Words, in lower case, that are written with a capital within a sentence, and never without.

    Only references in mixed case tell; for others, and for languages that capitalise nouns, this
    is of no use.
    """
    capital: set[str] = set()
    small: set[str] = set()
    for reference in references:
        if reference.isupper() or reference.islower():
            continue
        tokens = reference.split()
        for before, token in zip([".", *tokens], tokens, strict=False):
            word = re.sub(r"['’]s$", "", token.strip(".,;:?!\"'“”‘’()[]-"))
            if word[:1].islower():
                small.add(word.lower())
            elif word[:1].isupper() and _WORD.fullmatch(word) and not _SENTENCE_END.search(before):
                capital.add(word.lower())
    return capital - small


_COUNTS = {
    "equal": Counts(hits=1),
    "substitute": Counts(substitutions=1),
    "delete": Counts(deletions=1),
    "insert": Counts(insertions=1),
}


def _classes(word: str, names: set[str], seen: Mapping[str, int]) -> Iterator[str]:
    number = word in NUMBER_WORDS or any(c.isdigit() for c in word)
    if number:
        yield "numbers"
    if word in names:
        yield "names"
    if word in FUNCTION_WORDS:
        yield "function words"
    elif not number and word not in names:
        yield "other words"
    times = seen.get(word, 0)
    yield NEVER if not times else next((name for most, name in BANDS if times <= most), OFTEN)


def _boundaries(alignment: tuple[AlignedWord, ...]) -> Iterator[tuple[str, str]]:
    """Stretches of errors in which only the spaces differ."""
    for wrong, steps in groupby(alignment, key=lambda step: step.op != "equal"):
        if not wrong:
            continue
        span = list(steps)
        reference = " ".join(step.reference for step in span if step.reference)
        hypothesis = " ".join(step.hypothesis for step in span if step.hypothesis)
        if reference and reference.replace(" ", "") == hypothesis.replace(" ", ""):
            yield reference, hypothesis


def _most_first(tallies: dict[Key, Tally]) -> dict[Key, Tally]:
    return dict(sorted(tallies.items(), key=lambda item: -item[1].count))
