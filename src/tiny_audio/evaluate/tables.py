"""Figures of an evaluation as JSON (summary.json), and as tables for terminal and Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tiny_audio.evaluate.errors import Confusions, confusions, hallucination, homophones
from tiny_audio.evaluate.results import Evaluation, set_name
from tiny_audio.evaluate.statistics import (
    BREAKDOWNS,
    LEVEL,
    bootstrap,
    divide,
    figures,
    share,
)
from tiny_audio.evaluate.wer import AlignedWord
from tiny_audio.text.scoring import get_rule

COLUMNS = ("utts", "words", "WER", "S", "D", "I", "CER", "SER", "RTFx", "failed")
LEGEND = "S, D, I: words substituted, deleted, inserted. SER: utterances with an error"
MARKS = "Marks: [reference→hypothesis] substituted, (reference) deleted, +hypothesis+ inserted."
KINDS = {"substitute": "Substitutions", "delete": "Deletions", "insert": "Insertions"}
EXAMPLES = 3  # ids of utterances that are named for a confusion


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """What summary.json holds: figures of the whole and of its parts."""
    parts = {
        kind: {
            name: figures(evaluation.select(at)) for name, at in divide(evaluation, kind).items()
        }
        for kind in BREAKDOWNS
    }
    return {
        **figures(evaluation),
        "sets": parts.pop("set"),
        "breakdown": parts,
        "hallucination": hallucination(evaluation),
    }


@dataclass(frozen=True)
class Section:
    """A table with its heading; cells are texts. text: positions of the columns of words."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text: Sequence[int] = (0,)

    def table(self) -> Table:
        """For the terminal; with many columns set tightly, for one of 80 characters."""
        tight = len(self.columns) > 8
        result = Table(
            title=self.title,
            title_justify="left",
            caption=self.note or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0 if tight else (0, 1, 0, 0),
        )
        texts: dict[str, Any] = {"overflow": "fold", "min_width": 8 if tight else 14}
        numbers: dict[str, Any] = {"justify": "right", "no_wrap": True}
        for position, column in enumerate(self.columns):
            result.add_column(column, **texts if position in self.text else numbers)
        for row in self.rows:
            result.add_row(*row)
        return result

    def markdown(self) -> str:
        """For notes and model cards."""
        rule = ["---" if i in self.text else "---:" for i in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        table = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
        return f"### {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def show(sections: Iterable[Section], *, markdown: bool = False) -> None:
    """Print tables one after the other."""
    console = Console(markup=False)  # cells hold texts of any kind
    for section in sections:
        if markdown:
            print(section.markdown())
        else:
            console.print(section.table())


def percent(share: float | None) -> str:
    """A rate as people read it; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}%"


def figures_section(evaluation: Evaluation, title: str, kind: str | None = None) -> Section:
    """One row a part by `kind` (None: a set, of one set a source) and, of several, one for all."""
    several = len({record.set for record in evaluation.records}) > 1
    kind = kind or ("set" if several else "source")
    parts = [(name, evaluation.select(at)) for name, at in divide(evaluation, kind).items()]
    rows = []
    for name, part in parts if len(parts) == 1 else [*parts, ("all", evaluation)]:
        score, words, rtfx = part.score, part.score.words, part.rtfx
        sizes = (len(score.utterances), words.reference)
        errors = (words.substitutions, words.deletions, words.insertions)
        rates = (percent(score.cer), percent(score.sentence_error_rate))
        speed = "-" if rtfx is None else f"{rtfx:.1f}"
        cells = (*sizes, percent(score.wer), *errors, *rates, speed, part.failures.total())
        rows.append((name, *map(str, cells)))
    failures = ", ".join(f"{n} {reason}" for reason, n in evaluation.failures.most_common())
    failed = f"; failed: {failures}" if failures else ""
    rule = get_rule(evaluation.rule)
    first = f"{rule.primary.upper()} {with_interval(evaluation)}"
    return Section(title, (kind, *COLUMNS), rows, f"{first}, scoring {rule.id}{failed}\n{LEGEND}")


def matrix_section(evaluations: Mapping[str, Evaluation]) -> Section:
    """Models against sets: the figure that the scoring rule compares by, with its interval."""
    rule = get_rule(next(iter(evaluations.values())).rule)
    parts = {model: one.by(set_name) for model, one in evaluations.items()}
    sets = list(dict.fromkeys(name for found in parts.values() for name in found))
    rows = [
        (model, *(with_interval(found[name]) if name in found else "-" for name in sets))
        for model, found in parts.items()
    ]
    title = f"{rule.primary.upper()} with {LEVEL:.0%} interval, scoring {rule.id}"
    return Section(title, ("model", *sets), rows)


def with_interval(part: Evaluation) -> str:
    """The figure that the scoring rule compares by, as people read it."""
    name = get_rule(part.rule).primary
    value = percent(part.score.wer if name == "wer" else part.score.cer)
    interval = bootstrap(part).intervals[name]
    return f"{value} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else value


def high_wer_section(
    name: str, evaluation: Evaluation, threshold: float, limit: int | None
) -> Section:
    """The utterances at or above a word error rate, or with text for no reference, worst first."""
    found = [
        (math.inf if one.words.rate is None else one.words.rate, one, record)
        for record, one in evaluation.pairs()
        if one.words.errors
    ]
    found = [entry for entry in found if entry[0] >= threshold]
    found.sort(key=lambda entry: (-entry[0], -entry[1].words.errors))
    rows = [
        (
            record.id,
            percent(one.words.rate),
            f"{one.words.errors}/{one.words.reference}",
            f"{record.duration:.1f}",
            marked(one.alignment),
        )
        for _, one, record in found[:limit]
    ]
    errors = sum(one.words.errors for _, one, _ in found)
    score = evaluation.score
    of = f"{len(found)} of {len(score.utterances)} utterances"
    note = f"{of}, {errors} of {score.words.errors} errors. {MARKS}"
    title = f"{name}: word error rate of {percent(threshold)} or more"
    return Section(title, ("id", "WER", "errors", "seconds", "text"), rows, note, (0, 4))


def marked(alignment: Sequence[AlignedWord]) -> str:
    """An alignment as one line of text, see MARKS."""
    forms = {"equal": "{0}", "substitute": "[{0}→{1}]", "delete": "({0})", "insert": "+{1}+"}
    return " ".join(forms[step.op].format(step.reference, step.hypothesis) for step in alignment)


def error_sections(evaluation: Evaluation, top: int) -> Iterator[Section]:
    """Confusions by kind, homophones as one of them."""
    for kind, title in KINDS.items():
        yield _confusion_section(title, confusions(evaluation, kind), top)
    errors, pairs = homophones(evaluation)
    forgiven = percent(share(errors, evaluation.score.words.reference))
    note = f"; WER {percent(evaluation.score.wer)}, with homophones forgiven {forgiven} (English)"
    yield _confusion_section("Homophones", pairs, top, note)


def _confusion_section(title: str, found: Confusions, top: int, note: str = "") -> Section:
    rows = []
    for pair, ids in list(found.items())[:top]:
        different = list(dict.fromkeys(ids))
        more = ["…"] if len(different) > EXAMPLES else []
        rows.append((*pair, str(len(ids)), ", ".join([*different[:EXAMPLES], *more])))
    total = sum(map(len, found.values()))
    columns = ("reference", "hypothesis", "times", "in")
    return Section(title, columns, rows, f"{total} in all, {len(found)} different{note}", (0, 1, 3))
