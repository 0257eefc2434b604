"""`tiny-audio analysis`: what went wrong, in tables made from results files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny_audio.errors import DataError
from tiny_audio.evaluate.confusions import Tally, confusions, word_classes
from tiny_audio.evaluate.homophones import Forgiven, forgive
from tiny_audio.evaluate.records import Evaluation
from tiny_audio.evaluate.report import COLUMNS, percent, rows
from tiny_audio.evaluate.sections import Section, show
from tiny_audio.evaluate.systems import System, load_systems
from tiny_audio.evaluate.wer import AlignedWord

EXAMPLES = 3  # ids of utterances that are named for a confusion
NOTHING = "–"


def summary_command(paths: Sequence[Path], *, scoring: str | None, markdown: bool) -> None:
    """`analysis summary`: the figures of each results file, as `tiny-audio eval` shows them."""
    systems = load_systems(paths, scoring)
    sections = [
        Section(
            system.name,
            COLUMNS,
            rows(system.evaluation),
            f"scoring {system.evaluation.score.rule}",
        )
        for system in systems
    ]
    show(sections, markdown=markdown)


def high_wer_command(
    path: Path, *, threshold: float, limit: int | None, scoring: str | None, markdown: bool
) -> None:
    """`analysis high-wer`: utterances whose word error rate is at least `threshold`."""
    for system in load_systems([path], scoring):
        show([high_wer(system, threshold, limit)], markdown=markdown)


def errors_command(
    path: Path, *, top: int, words: Path | None, scoring: str | None, markdown: bool
) -> None:
    """`analysis errors`: the most frequent confusions and the kinds of words that go wrong."""
    seen = None if words is None else count_words(words)
    for system in load_systems([path], scoring):
        show(error_sections(system.evaluation, top, seen), markdown=markdown)


def homophones_command(path: Path, *, top: int, scoring: str | None, markdown: bool) -> None:
    """`analysis homophones`: word error rate with homophones forgiven, and which they were."""
    for system in load_systems([path], scoring):
        show([homophone_section(forgive(system.evaluation), top)], markdown=markdown)


def high_wer(system: System, threshold: float, limit: int | None = None) -> Section:
    """The utterances at or above a word error rate, the worst first.

    One whose reference has no words is among them if anything was written for it.
    """
    evaluation = system.evaluation
    pairs = zip(evaluation.scored, evaluation.score.utterances, strict=True)
    found = [
        (float("inf") if one.wer is None else one.wer, record, one)
        for record, one in pairs
        if one.words.errors and (one.wer is None or one.wer >= threshold)
    ]
    found.sort(key=lambda item: (-item[0], -item[2].words.errors))
    cells = [
        (
            record.id,
            percent(one.wer),
            f"{one.words.errors}/{one.words.reference}",
            f"{record.duration:.1f}",
            marked(one.alignment),
        )
        for _, record, one in found[:limit]
    ]
    words = sum(one.words.reference for _, _, one in found)
    errors = sum(one.words.errors for _, _, one in found)
    total = evaluation.score.words
    note = (
        f"{len(found)} of {evaluation.score.n_utterances} utterances, {words} of "
        f"{total.reference} words and {errors} of {total.errors} errors. {MARKS}"
    )
    title = f"{system.name}: word error rate of {percent(threshold)} or more"
    return Section(title, ("id", "WER", "errors", "seconds", "text"), cells, note, (0, 4))


MARKS = "Marks: [said→heard] substituted, (said) deleted, +heard+ inserted."


def marked(alignment: Sequence[AlignedWord]) -> str:
    """An alignment as one line of text, see MARKS."""
    forms = {
        "equal": "{0}",
        "substitute": "[{0}→{1}]",
        "delete": "({0})",
        "insert": "+{1}+",
    }
    return " ".join(forms[step.op].format(step.reference, step.hypothesis) for step in alignment)


def error_sections(
    evaluation: Evaluation, top: int, seen: Mapping[str, int] | None = None
) -> Iterator[Section]:
    """Confusions by kind, homophones as one of them, then error rates by kind of word."""
    found = confusions(evaluation)
    pairs = ("said", "heard", "times", "in")
    yield _tallies("Substitutions", pairs, found.substitutions, top)
    yield _tallies("Deletions", ("said", "times", "in"), found.deletions, top)
    yield _tallies("Insertions", ("heard", "times", "in"), found.insertions, top)
    yield homophone_section(forgive(evaluation), top)
    yield _tallies("Only the spaces differ", pairs, found.boundaries, top)
    yield class_section(evaluation, seen)


def class_section(evaluation: Evaluation, seen: Mapping[str, int] | None = None) -> Section:
    """Error rates of numbers, names, function words and words by frequency."""
    errors = evaluation.score.words.errors
    cells = [
        (
            name,
            str(counts.reference),
            percent(counts.rate),
            str(counts.substitutions),
            str(counts.deletions),
            str(counts.insertions),
            percent(counts.errors / errors if errors else None),
        )
        for name, counts in word_classes(evaluation, seen).items()
    ]
    where = "these references" if seen is None else "the words given"
    note = (
        f"Seen: in {where}. Names: capitalised within a sentence and never written small; "
        "none are known where references carry no case. Classes overlap."
    )
    columns = ("words", "said", "WER", "S", "D", "I", "of all errors")
    return Section("Kinds of words", columns, cells, note)


def homophone_section(forgiven: Forgiven, top: int) -> Section:
    """Homophones that were confused, and the word error rate without them."""
    cells = [
        (pair.reference, pair.hypothesis, str(count), _ids(forgiven.examples[pair]))
        for pair, count in forgiven.pairs.most_common(top)
    ]
    note = (
        f"{forgiven.pairs.total()} confused. WER {percent(forgiven.wer_before)}, with "
        f"homophones forgiven {percent(forgiven.wer)} (English; lists are never complete)."
    )
    return Section("Homophones", ("said", "heard", "times", "in"), cells, note, (0, 1, 3))


def count_words(path: Path) -> Counter[str]:
    """How often each word stands in a text, lower case; raises DataError if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as lines:
            return Counter(
                word.strip('.,;:?!"“”()[]') for line in lines for word in line.lower().split()
            )
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a text: {error}") from None


def _tallies(title: str, columns: Sequence[str], tallies: Mapping[Any, Tally], top: int) -> Section:
    cells = [
        (*(key if isinstance(key, tuple) else (key,)), str(tally.count), _ids(list(tally.ids)))
        for key, tally in list(tallies.items())[:top]
    ]
    total = sum(tally.count for tally in tallies.values())
    note = f"{total} in all, {len(tallies)} different"
    words = [place for place, column in enumerate(columns) if column != "times"]
    return Section(title, columns, [tuple(map(str, row)) for row in cells], note, words)


def _ids(ids: Sequence[str]) -> str:
    more = len(ids) - EXAMPLES
    return ", ".join(ids[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")
