"""What a run shows: a bar with the newest figures in a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

_REPLACED = ("output_dir=", "training.resume_from_checkpoint=")
Figures = list[tuple[str, str]]  # names and values, ready to read


class _FiguresUnderBar(Progress):
    """A progress bar with a table of the newest figures under it."""

    figures: Mapping[str, str] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the figures in rows of four."""
        yield self.make_tasks_table(self.tasks)
        table = Table.grid(padding=(0, 3))
        cells = [Text.assemble((name, "dim"), " ", v) for name, v in self.figures.items()]
        for start in range(0, len(cells), 4):
            table.add_row(*cells[start : start + 4])
        yield table


class Display:
    """Shows rows of metrics.jsonl; a context in which the bar, if any, is alive.

    Args:
        max_steps: of the run.
        live: redraw the newest figures under a bar, where the console is a terminal; else one line
            for each row.
        console: where to write.
    """

    def __init__(self, max_steps: int, *, live: bool, console: Console | None = None) -> None:
        self.max_steps = max_steps
        self.console = console or Console()
        self.live = live and self.console.is_terminal
        columns = TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None)
        self._bar = _FiguresUnderBar(
            *columns, console=self.console, expand=True, refresh_per_second=4, disable=not self.live
        )
        self._task = self._bar.add_task("", total=max_steps)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def training(self, row: Mapping[str, Any]) -> None:
        """Show a training row."""
        figures = training_figures(row, self.max_steps)
        self._bar.update(self._task, completed=row["step"])
        self._bar.figures = {**self._bar.figures, **dict(figures)}
        if not self.live:
            self._line(row["step"], figures)

    def evaluated(self, row: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> None:
        """Show an evaluation row and a few references with what was recognised."""
        figures = evaluation_figures(row)
        self._bar.figures = {**self._bar.figures, **dict(figures)}
        self._line(row["step"], figures)
        for reference, hypothesis in pairs:
            self.say(f"    reference:  {reference}\n    hypothesis: {hypothesis}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def _line(self, step: int, figures: Figures) -> None:
        shown = [f"step {step:>6}/{self.max_steps}", *(f"{name} {v}" for name, v in figures)]
        self.say("  ".join(shown))


def training_figures(row: Mapping[str, Any], max_steps: int) -> Figures:
    """What is shown of a training row."""
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


def evaluation_figures(row: Mapping[str, Any]) -> Figures:
    """What is shown of an evaluation row."""
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


def patience_ended(metric: str, patience: int) -> str:
    """Why a run ended before its last step."""
    name = "WER" if metric == "wer" else "loss"
    several = f"{patience} evaluations" if patience > 1 else "an evaluation"
    return (
        f"Ended early, after {several} without a better {name} "
        f"(training.early_stopping_patience={patience}); the best checkpoint is kept"
    )


def not_finite(step: int, what: str, ids: Sequence[str]) -> str:
    """Why a run ends at a loss or gradient that is no number."""
    return (
        f"step {step}: the {what} is not a finite number, in the batch of {', '.join(ids)}. The "
        "weights were not touched and the last checkpoint is whole: look at these samples, or "
        "resume with a lower training.learning_rate or training.precision=fp32"
    )


def out_of_memory(step: int, times: int, limit: float) -> str:
    """Line after a step for which memory did not suffice. ``limit``: seconds, of this process."""
    now = "another process computes its batches in smaller parts"
    if limit < math.inf:
        now = f"batches are computed in parts of at most {limit:.0f} s"
    several = f", {times} times" if times > 1 else ""
    return (
        f"Out of memory in step {step}{several}: {now} from here on; the updates stay the same. A "
        "smaller training.batch_seconds avoids the cut"
    )


def resume_command(folder: Path, argv: Sequence[str] | None, processes: int) -> str:
    """The command that was typed, made to go on from the last checkpoint in ``folder``."""
    added = [f"output_dir={folder}", "training.resume_from_checkpoint=last"]
    if argv is None:
        return "train() with the same settings and " + " ".join(added)
    program, *arguments = argv
    if processes > 1:
        start = ["accelerate", "launch", f"--num_processes={processes}", "-m", "tiny_audio"]
    elif Path(program).name == "__main__.py":
        start = ["python", "-m", "tiny_audio"]
    else:
        start = [Path(program).name]
    same = [item for item in arguments if not item.lstrip("+").startswith(_REPLACED)]
    return shlex.join([*start, *same, *added])
