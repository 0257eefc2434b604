"""Figures of an evaluation as JSON (summary.json), and as tables for terminal and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tiny_audio.errors import DataError
from tiny_audio.evaluate.errors import (
    Confusions,
    confusions,
    forgive_homophones,
    hallucination,
    word_classes,
)
from tiny_audio.evaluate.results import Evaluation, System, set_name
from tiny_audio.evaluate.statistics import (
    BREAKDOWNS,
    FIGURES,
    LEVEL,
    bootstrap,
    breakdown,
    calibration,
)
from tiny_audio.evaluate.wer import AlignedWord
from tiny_audio.text.scoring import get_rule

COLUMNS = ("set", "utts", "words", "WER", "S", "D", "I", "CER", "SER", "RTFx", "failed")
LEGEND = "S, D, I: words substituted, deleted, inserted. SER: utterances with an error"
MARKS = "Marks: [said→heard] substituted, (said) deleted, +heard+ inserted."
EXAMPLES = 3  # ids of utterances that are named for a confusion
MESSAGES = 5  # kept of each reason of failure
MANY = 8  # columns above which a table is set tightly, for a terminal of 80 characters


# ----------------------------------------------------------------------------------------- JSON


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """What summary.json holds: figures of the whole, of each set, and by BREAKDOWNS."""
    return {
        **figures(evaluation),
        "failure_messages": _failure_messages(evaluation),
        "sets": {name: figures(part) for name, part in evaluation.by(set_name).items()},
        "breakdown": {kind: breakdown(evaluation, kind) for kind in BREAKDOWNS},
        "hallucination": hallucination(evaluation),
        "calibration": calibration(evaluation),
    }


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Counts, rates and their intervals of 95 %.

    Intervals of the three counts are for as many reference words as there are. primary: the
    figure to compare by under this scoring rule, ``wer`` or ``cer``.
    """
    drawn = bootstrap(evaluation)
    counts = evaluation.score.words
    found: dict[str, Any] = evaluation.summary()
    intervals: dict[str, Any] = {name: drawn.intervals[name] for name in FIGURES}
    for kind in ("substitution", "deletion", "insertion"):
        count, rate = f"{kind}s", f"{kind}_rate"
        found[rate] = share(found[count], counts.reference)
        interval = drawn.intervals[rate]
        intervals[count] = interval and [counts.reference * end for end in interval]
    return {
        **found,
        "primary": get_rule(evaluation.score.rule).primary,
        "intervals": intervals,
        "bootstrap": {
            "level": drawn.level,
            "resamples": drawn.resamples,
            "seed": drawn.seed,
            "unit": drawn.unit,
            "units": drawn.units,
        },
    }


def _failure_messages(evaluation: Evaluation) -> dict[str, list[str]]:
    """reason -> some of the failed utterances, and what was wrong with them."""
    found: dict[str, list[str]] = {}
    for record in evaluation.records:
        if record.error is not None:
            some = found.setdefault(record.error, [])
            if len(some) < MESSAGES:
                some.append(f"{record.source}/{record.id}: {record.message or record.error}")
    return found


# --------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Section:
    """A table with its heading; cells are texts. text: positions of the columns of words."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text: Sequence[int] = (0,)

    def table(self) -> Table:
        """For the terminal."""
        tight = len(self.columns) > MANY
        result = Table(
            title=escape(self.title),
            title_justify="left",
            caption=escape(self.note) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0 if tight else (0, 1, 0, 0),
        )
        for position, column in enumerate(self.columns):
            words = position in self.text
            longest = max((len(row[position]) for row in self.rows), default=0)
            result.add_column(
                escape(column),
                justify="left" if words else "right",
                overflow="fold",
                no_wrap=not words,
                min_width=min(longest, 8 if tight else 14) if words else None,
            )
        for row in self.rows:
            result.add_row(*map(escape, row))
        return result

    def markdown(self) -> str:
        """For notes and model cards."""
        columns = range(len(self.columns))
        rule = ["---" if position in self.text else "---:" for position in columns]
        lines = [self.columns, rule, *self.rows]
        table = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
        return f"### {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")


def show(sections: Iterable[Section], *, markdown: bool = False) -> None:
    """Print tables one after the other."""
    console = Console()
    for section in sections:
        if markdown:
            print(section.markdown())
        else:
            console.print(section.table())


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def percent(share: float | None) -> str:
    """A rate as people read it; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}%"


def figures_section(evaluation: Evaluation, title: str) -> Section:
    """One row a set (of one set: a source) and, where there are several, one for all."""
    several = len({record.set for record in evaluation.records}) > 1
    parts = evaluation.by(set_name if several else lambda record: record.source)
    rows = [_figures_row(name, part) for name, part in parts.items()]
    if len(parts) != 1:
        rows.append(_figures_row("all", evaluation))
    rule = get_rule(evaluation.score.rule)
    failures = ", ".join(f"{n} {reason}" for reason, n in evaluation.failures.most_common())
    failed = f"; failed: {failures}" if failures else ""
    first = f"{rule.primary.upper()} {_with_interval(evaluation)}"
    return Section(title, COLUMNS, rows, f"{first}, scoring {rule.id}{failed}\n{LEGEND}")


def _figures_row(name: str, part: Evaluation) -> tuple[str, ...]:
    score, counts = part.score, part.score.words
    return (
        name,
        str(len(score.utterances)),
        str(counts.reference),
        percent(score.wer),
        str(counts.substitutions),
        str(counts.deletions),
        str(counts.insertions),
        percent(score.cer),
        percent(score.sentence_error_rate),
        "-" if part.rtfx is None else f"{part.rtfx:.1f}",
        str(part.failures.total()),
    )


def matrix_section(evaluations: Mapping[str, Evaluation]) -> Section:
    """Models against sets: the figure that the scoring rule compares by, with its interval."""
    rule = get_rule(next(iter(evaluations.values())).score.rule)
    parts = {model: one.by(set_name) for model, one in evaluations.items()}
    sets = list(dict.fromkeys(name for found in parts.values() for name in found))
    rows = [
        (model, *(_with_interval(found[name]) if name in found else "-" for name in sets))
        for model, found in parts.items()
    ]
    title = f"{rule.primary.upper()} with {LEVEL:.0%} interval, scoring {rule.id}"
    return Section(title, ("model", *sets), rows)


def _with_interval(part: Evaluation) -> str:
    name = get_rule(part.score.rule).primary
    value = part.score.wer if name == "wer" else part.score.cer
    interval = bootstrap(part).intervals[name]
    if interval is None:
        return percent(value)
    return f"{percent(value)} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


# --------------------------------------------------------------------------------------- errors


def high_wer_section(system: System, threshold: float, limit: int | None = None) -> Section:
    """The utterances at or above a word error rate, the worst first.

    One whose reference has no words is among them if anything was written for it.
    """
    found = [
        (float("inf") if one.wer is None else one.wer, record, one)
        for record, one in system.evaluation.pairs()
        if one.words.errors and (one.wer is None or one.wer >= threshold)
    ]
    found.sort(key=lambda item: (-item[0], -item[2].words.errors))
    rows = [
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
    score = system.evaluation.score
    note = (
        f"{len(found)} of {len(score.utterances)} utterances, {words} of "
        f"{score.words.reference} words and {errors} of {score.words.errors} errors. {MARKS}"
    )
    title = f"{system.name}: word error rate of {percent(threshold)} or more"
    return Section(title, ("id", "WER", "errors", "seconds", "text"), rows, note, (0, 4))


def marked(alignment: Sequence[AlignedWord]) -> str:
    """An alignment as one line of text, see MARKS."""
    forms = {"equal": "{0}", "substitute": "[{0}→{1}]", "delete": "({0})", "insert": "+{1}+"}
    return " ".join(forms[step.op].format(step.reference, step.hypothesis) for step in alignment)


def error_sections(
    evaluation: Evaluation, top: int, seen: Mapping[str, int] | None = None
) -> Iterator[Section]:
    """Confusions by kind, homophones as one of them, then error rates by kind of word."""
    found = confusions(evaluation)
    yield _confusion_section("Substitutions", found["substitute"], top)
    yield _confusion_section("Deletions", found["delete"], top, columns=("said",))
    yield _confusion_section("Insertions", found["insert"], top, columns=("heard",))
    yield homophone_section(evaluation, top)
    yield _confusion_section("Only the spaces differ", found["boundary"], top)
    yield _class_section(evaluation, seen)


def homophone_section(evaluation: Evaluation, top: int) -> Section:
    """Homophones that were confused, and the word error rate without them."""
    errors, pairs = forgive_homophones(evaluation)
    note = (
        f"{_total(pairs)} confused. WER {percent(evaluation.score.wer)}, with homophones forgiven "
        f"{percent(share(errors, evaluation.score.words.reference))} (English; lists are never "
        "complete)."
    )
    return _confusion_section("Homophones", pairs, top, note)


def _total(found: Confusions) -> int:
    return sum(map(len, found.values()))


def _confusion_section(
    title: str,
    found: Confusions,
    top: int,
    note: str = "",
    columns: Sequence[str] = ("said", "heard"),
) -> Section:
    rows = [
        (*filter(None, pair), str(len(ids)), _examples(ids))
        for pair, ids in list(found.items())[:top]
    ]
    note = note or f"{_total(found)} in all, {len(found)} different"
    text = (*range(len(columns)), len(columns) + 1)
    return Section(title, (*columns, "times", "in"), rows, note, text)


def _examples(ids: Sequence[str]) -> str:
    different = list(dict.fromkeys(ids))
    more = len(different) - EXAMPLES
    return ", ".join(different[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _class_section(evaluation: Evaluation, seen: Mapping[str, int] | None) -> Section:
    """Error rates of numbers, names, function words and words by frequency."""
    errors = evaluation.score.words.errors
    rows = [
        (
            name,
            str(counts.reference),
            percent(counts.rate),
            str(counts.substitutions),
            str(counts.deletions),
            str(counts.insertions),
            percent(share(counts.errors, errors)),
        )
        for name, counts in word_classes(evaluation, seen).items()
    ]
    where = "these references" if seen is None else "the words given"
    note = (
        f"Seen: in {where}. Names: capitalised within a sentence and never written small; "
        "none are known where references carry no case. Classes overlap."
    )
    columns = ("words", "said", "WER", "S", "D", "I", "of all errors")
    return Section("Kinds of words", columns, rows, note)


def count_words(path: Path) -> Counter[str]:
    """How often each word stands in a text, lower case; raises DataError if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as lines:
            return Counter(
                word.strip('.,;:?!"“”()[]') for line in lines for word in line.lower().split()
            )
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a text: {error}") from None


def share(count: int, total: int) -> float | None:
    """A part of a total; None where there is no total."""
    return count / total if total else None
