"""An evaluation as a table, for the terminal and for Markdown."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

from tiny_audio.evaluate.records import Evaluation

COLUMNS = ("set", "utts", "words", "WER", "S", "D", "I", "CER", "SER", "RTFx", "failed")
LEGEND = "S, D, I: words substituted, deleted, inserted. SER: utterances with an error"


def rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """One row a source and, where there are several, one for all; cells as in COLUMNS."""
    parts = evaluation.by(lambda record: record.source)
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
    """The rule, without which the figures mean nothing, and what failed."""
    failures = ", ".join(f"{n} {reason}" for reason, n in evaluation.failures.most_common())
    return f"scoring {evaluation.score.rule}" + (f"; failed: {failures}" if failures else "")
