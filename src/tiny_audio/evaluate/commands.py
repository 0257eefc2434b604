"""The command group `tiny-audio analysis`; imports what a command needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

analysis = typer.Typer(
    help="Look into the results of evaluations, without the model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Results = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="a results.jsonl of eval, or its folder")
]
Several = Annotated[
    list[Path], typer.Argument(metavar="RESULTS...", help="results.jsonl files, or their folders")
]
Scoring = Annotated[
    str | None, typer.Option(help="whisper-en or basic [default: as they were scored]")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="tables in Markdown")]
Top = Annotated[int, typer.Option(min=1, help="rows of each table at most")]


@analysis.command("summary")
def summary(results: Several, scoring: Scoring = None, markdown: Markdown = False) -> None:
    """Show the figures of evaluations again, under any scoring rule."""
    from tiny_audio.evaluate import tables
    from tiny_audio.evaluate.results import load_systems

    systems = load_systems(results, scoring)
    sections = (tables.figures_section(one, name) for name, one in systems.items())
    tables.show(sections, markdown=markdown)


@analysis.command("high-wer")
def high_wer(
    results: Results,
    threshold: Annotated[float, typer.Option(min=0.0, help="word error rate; 0.5 is 50 %")] = 0.5,
    limit: Annotated[int | None, typer.Option(min=1, help="only the worst so many")] = None,
    scoring: Scoring = None,
    markdown: Markdown = False,
) -> None:
    """List the utterances with a high word error rate, the worst first."""
    from tiny_audio.evaluate import tables
    from tiny_audio.evaluate.results import load_systems

    for name, one in load_systems([results], scoring).items():
        tables.show([tables.high_wer_section(name, one, threshold, limit)], markdown=markdown)


@analysis.command("errors")
def errors(
    results: Results, top: Top = 15, scoring: Scoring = None, markdown: Markdown = False
) -> None:
    """Show which words are substituted, deleted and inserted, and which are homophones."""
    from tiny_audio.evaluate import tables
    from tiny_audio.evaluate.results import load_systems

    for one in load_systems([results], scoring).values():
        tables.show(tables.error_sections(one, top), markdown=markdown)


@analysis.command("compare")
def compare(
    results: Several, top: Top = 10, scoring: Scoring = None, markdown: Markdown = False
) -> None:
    """Say which recogniser is better, how surely and where; all against the first."""
    from tiny_audio.errors import DataError
    from tiny_audio.evaluate import comparison, tables
    from tiny_audio.evaluate.results import load_systems

    first, *others = load_systems(results, scoring).items()
    if not others:
        raise DataError(f"{results[0]}: holds one model's results; name a second results file.")
    for other in others:
        found = comparison.compare(dict((first, other)))
        print(comparison.conclusion(found) + "\n")
        tables.show(comparison.sections(found, top), markdown=markdown)


@analysis.command("report")
def report(
    results: Several,
    out: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    audio_mb: Annotated[float, typer.Option(min=0, help="of recordings; others are linked")] = 50.0,
    scoring: Scoring = None,
) -> None:
    """Write one or two evaluations as an HTML page that opens without a network."""
    from tiny_audio.evaluate.report import write_report
    from tiny_audio.evaluate.results import load_systems

    write_report(load_systems(results, scoring), out=out, audio_mb=audio_mb)
