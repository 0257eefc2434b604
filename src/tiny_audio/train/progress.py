"""What a run shows while it runs: a live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

Pair = tuple[str, str]  # reference, hypothesis


class LineDisplay(AbstractContextManager["LineDisplay"]):
    """One line for each logged row; also the base of the live display.

    Args:
        max_steps: of the run.
        console: where to write.
    """

    def __init__(self, max_steps: int, console: Console) -> None:
        self.max_steps = max_steps
        self.console = console

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def training(self, row: Mapping[str, Any]) -> None:
        """Show a training row of metrics.jsonl."""
        shown = [f"step {row['step']:>6}/{self.max_steps}"]
        shown += [f"{name} {value}" for name, value in training_figures(row, self.max_steps)]
        self.say("  ".join(shown))

    def evaluated(self, row: Mapping[str, Any], pairs: Sequence[Pair]) -> None:
        """Show an evaluation row and a few references with what was recognised."""
        figures = "  ".join(f"{name} {value}" for name, value in evaluation_figures(row))
        self.say(f"step {row['step']:>6}/{self.max_steps}  {figures}")
        for reference, hypothesis in pairs:
            self.say(f"    reference:  {reference}\n    hypothesis: {hypothesis}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(text), soft_wrap=True)


class LiveDisplay(LineDisplay):
    """A table of the newest figures under a bar, redrawn in place; text scrolls by above it."""

    def __init__(self, max_steps: int, console: Console) -> None:
        super().__init__(max_steps, console)
        self._figures: dict[str, str] = {}
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), expand=True
        )
        self._task = self._bar.add_task("", total=max_steps)
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def training(self, row: Mapping[str, Any]) -> None:
        """Show a training row of metrics.jsonl."""
        self._bar.update(self._task, completed=row["step"])
        self._figures |= dict(training_figures(row, self.max_steps))

    def evaluated(self, row: Mapping[str, Any], pairs: Sequence[Pair]) -> None:
        """Show an evaluation row and a few references with what was recognised."""
        super().evaluated(row, pairs)
        self._figures |= dict(evaluation_figures(row))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(self._bar)
        values = Table.grid(padding=(0, 3))
        cells = [Text.assemble((name, "dim"), " ", v) for name, v in self._figures.items()]
        for start in range(0, len(cells), 4):
            values.add_row(*cells[start : start + 4])
        table.add_row(values)
        return table


def open_display(*, live: bool, max_steps: int, console: Console | None = None) -> LineDisplay:
    """The live display where it is wanted and there is a terminal, else plain lines."""
    console = console or Console()
    kind = LiveDisplay if live and console.is_terminal else LineDisplay
    return kind(max_steps, console)


def training_figures(row: Mapping[str, Any], max_steps: int) -> list[tuple[str, str]]:
    """Names and values, ready to read, of a training row."""
    rates = " ".join(f"{row[key]:.1e}" for key in row if key.startswith("lr_"))
    left = (max_steps - row["step"]) * row["seconds_per_step"]
    return [
        ("loss", f"{row['loss']:.4f}"),
        ("grad norm", f"{row['grad_norm']:.2f}"),
        ("lr", rates),
        ("audio s/s", f"{row['audio_seconds_per_second']:.0f}"),
        ("memory", f"{row['memory_gb']:.1f} GB"),
        ("left", duration(left)),
    ]


def evaluation_figures(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, ready to read, of an evaluation row."""
    wer = row.get("wer")
    return [
        ("eval loss", f"{row['eval_loss']:.4f}"),
        ("WER", "none" if wer is None else f"{wer:.1%}"),
    ]


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
