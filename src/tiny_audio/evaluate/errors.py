"""What goes wrong, read off the alignments: confused words, homophones, text without speech."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

from tiny_audio.evaluate.results import Evaluation, Record
from tiny_audio.evaluate.wer import AlignedWord, UtteranceScore

Pair = tuple[str, str]  # reference, hypothesis; "" where there is none
Confusions = dict[Pair, list[str]]  # ids of utterances, one for each time; the most frequent first


def confusions(evaluation: Evaluation, kind: str) -> Confusions:
    """Errors of one kind: ``substitute``, ``delete`` or ``insert``."""
    return _by_frequency(
        ((step.reference, step.hypothesis), record.id)
        for record, one in evaluation.pairs()
        for step in one.alignment
        if step.op == kind
    )


def homophones(evaluation: Evaluation) -> tuple[int, Confusions]:
    """Word errors without those in words that sound alike (English), and these pairs.

    These are substitutions within a group of `homophones.txt`, and stretches of errors which as a
    whole are in one group ("they are", "there") or differ only in spaces ("every one", "everyone").
    """
    found = [
        (pair, forgiven, record.id)
        for record, one in evaluation.pairs()
        for pair, forgiven in _homophones(one.alignment)
    ]
    errors = evaluation.score.words.errors - sum(forgiven for _, forgiven, _ in found)
    return errors, _by_frequency((pair, name) for pair, _, name in found)


def _homophones(alignment: Sequence[AlignedWord]) -> Iterator[tuple[Pair, int]]:
    """Pairs of words or phrases that sound alike, with the errors that they are counted as."""
    for wrong, group in groupby(alignment, key=lambda step: step.op != "equal"):
        steps = list(group) if wrong else []
        reference = " ".join(step.reference for step in steps if step.reference)
        hypothesis = " ".join(step.hypothesis for step in steps if step.hypothesis)
        if sound_alike(reference, hypothesis):
            yield (reference, hypothesis), len(steps)
            continue
        for step in steps:
            if sound_alike(step.reference, step.hypothesis):
                yield (step.reference, step.hypothesis), 1


def sound_alike(one: str, other: str) -> bool:
    """Whether two phrases are in one group of the list, or differ only in spaces."""
    groups = homophone_groups()
    same_letters = one.replace(" ", "") == other.replace(" ", "") != ""
    return same_letters or bool(groups.get(one, set()) & groups.get(other, set()))


@cache
def homophone_groups() -> dict[str, set[int]]:
    """Phrase (lower case) -> numbers of the groups that it stands in."""
    text = files("tiny_audio.evaluate").joinpath("homophones.txt").read_text(encoding="utf-8")
    found: dict[str, set[int]] = defaultdict(set)
    for number, line in enumerate(text.splitlines()):
        for phrase in line.split(",") if line and not line.startswith("#") else ():
            found[phrase.strip()] |= {number}
    return found


def _by_frequency(items: Iterable[tuple[Pair, str]]) -> Confusions:
    found: Confusions = defaultdict(list)
    for pair, name in items:
        found[pair].append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


EXAMPLES = 10  # ids kept of each kind
_LOOP = re.compile(
    r"""(?<!\S) (?:
        (\S+) (?:\ \1){5,}                   # a word, 6 times or more
        | (\S+ (?:\ \S+){1,9}?) (?:\ \2){3,}   # up to 10 words, 4 times or more
    ) (?!\S)
    | (\S{1,20}?) \3{9,}                     # within a word, 10 times or more""",
    re.VERBOSE,
)


def loop(text: str) -> str | None:
    """The phrase that a text (of single spaces) repeats over and over, None if there is none."""
    found = _LOOP.search(text)
    return found and found[found.lastindex or 0]


def hallucination(evaluation: Evaluation) -> dict[str, Any]:
    """Text without speech, ready for JSON.

    nonspeech: utterances whose reference is empty, and the words inserted by minute (None without).
    empty: the hypothesis is, and the reference is not. loops: that the reference does not have.
    runaways: more than twice the reference's words and five. unfinished: cut off, see `Record`.
    """
    pairs = evaluation.pairs()
    silent = [(record, one) for record, one in pairs if not one.reference]
    minutes = sum(record.duration for record, _ in silent) / 60
    inserted = sum(one.words.insertions for _, one in silent)

    def listed(test: Callable[[Record, UtteranceScore], object]) -> dict[str, Any]:
        ids = [record.id for record, one in pairs if test(record, one)]
        return {"count": len(ids), "examples": ids[:EXAMPLES]}

    return {
        "nonspeech": {
            "utterances": len(silent),
            "minutes": round(minutes, 3),
            "insertions": inserted,
            "insertions_per_minute": inserted / minutes if minutes else None,
            "answered": listed(lambda _, one: not one.reference and one.hypothesis),
        },
        "empty": listed(lambda _, one: one.reference and not one.hypothesis),
        "loops": listed(lambda _, one: loop(one.hypothesis) and not loop(one.reference)),
        "runaways": listed(
            lambda _, one: len(one.hypothesis.split()) > 2 * one.words.reference + 5
        ),
        "unfinished": listed(lambda record, _: not record.finished),
    }
