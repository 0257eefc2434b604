"""An evaluation as a table, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.markup import escape
from rich.table import Table

from tiny_audio.evaluate.bootstrap import LEVEL, bootstrap
from tiny_audio.evaluate.records import Evaluation
from tiny_audio.text.scoring import get_rule

COLUMNS = ("set", "utts", "words", "WER", "S", "D", "I", "CER", "SER", "RTFx", "failed")
LEGEND = "S, D, I: words substituted, deleted, inserted. SER: utterances with an error"


def rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """One row a set and, where there are several, one for all; cells as in COLUMNS.

    Where there is only one set, one row a source of it.
    """
    several = len({record.set for record in evaluation.records}) > 1
    parts = evaluation.by(lambda r: r.set or r.source if several else r.source)
    named = list(parts.items())
    if len(parts) != 1:
        named.append(("all", evaluation))
    return [_row(name, part) for name, part in named]


def table(evaluation: Evaluation, title: str) -> Table:
    """For the terminal: `rich.print` it."""
    caption = f"{_caption(evaluation)}\n{LEGEND}"
    result = Table(
        title=escape(title),
        caption=escape(caption),
        box=box.SIMPLE_HEAD,
        padding=0,  # every column must be seen in a terminal of 80 characters
    )
    result.add_column(COLUMNS[0], overflow="fold", min_width=8)
    for column in COLUMNS[1:]:
        result.add_column(column, justify="right", no_wrap=True)
    for row in rows(evaluation):
        result.add_row(*map(escape, row))
    return result


def matrix(evaluations: Mapping[str, Evaluation]) -> Table:
    """Models against sets: the figure that the scoring rule compares by, with its interval."""
    rule = get_rule(next(iter(evaluations.values())).score.rule)
    result = Table(
        title=f"{rule.primary.upper()} with {LEVEL:.0%} interval, scoring {rule.id}",
        box=box.SIMPLE_HEAD,
    )
    result.add_column("model", overflow="fold")
    parts = {
        model: one.by(lambda record: record.set or record.source)
        for model, one in evaluations.items()
    }
    sets = list(dict.fromkeys(name for found in parts.values() for name in found))
    for name in sets:
        result.add_column(escape(name), justify="right", overflow="fold")
    for model, found in parts.items():
        result.add_row(escape(model), *(_with_interval(found.get(name)) for name in sets))
    return result


def _with_interval(part: Evaluation | None) -> str:
    if part is None:
        return "-"
    name = get_rule(part.score.rule).primary
    value = part.score.wer if name == "wer" else part.score.cer
    interval = bootstrap(part).intervals[name]
    if interval is None:
        return percent(value)
    return f"{percent(value)} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def markdown(evaluation: Evaluation) -> str:
    """For model cards and notes."""
    rule = ["---" if column == "set" else "---:" for column in COLUMNS]
    lines = [COLUMNS, rule, *rows(evaluation)]
    escaped = ("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)
    return "\n".join(escaped) + f"\n\n{_caption(evaluation)}\n"


def percent(share: float | None) -> str:
    """A rate as people read it; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}%"


def _row(name: str, part: Evaluation) -> tuple[str, ...]:
    result = part.score
    return (
        name,
        str(result.n_utterances),
        str(result.reference_words),
        percent(result.wer),
        str(result.substitutions),
        str(result.deletions),
        str(result.insertions),
        percent(result.cer),
        percent(result.sentence_error_rate),
        "-" if part.rtfx is None else f"{part.rtfx:.1f}",
        str(part.failures.total()),
    )


def _caption(evaluation: Evaluation) -> str:
    """The rule, without which the figures mean nothing, how sure they are, and what failed."""
    rule = get_rule(evaluation.score.rule)
    failures = ", ".join(f"{n} {reason}" for reason, n in evaluation.failures.most_common())
    failed = f"; failed: {failures}" if failures else ""
    first = f"{rule.primary.upper()} {_with_interval(evaluation)}"
    return f"{first}, scoring {rule.id}{failed}"
