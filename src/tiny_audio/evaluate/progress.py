"""How far an evaluation is, on standard error."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from tiny_audio.evaluate.report import percent
from tiny_audio.evaluate.wer import Counts


class Progress:
    """A bar with the utterances done, the time left and the word error rate so far.

    Args:
        what: is evaluated.
        total: utterances, None where not known.
        done: of them before this run.
    """

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._what = escape(what)
        self._task = self._bar.add_task(self._what, total=total, completed=done)

    def show(self, words: Counts) -> None:
        """One utterance more is done; `words` counts all so far."""
        text = f"{self._what}, WER {percent(words.rate)}"
        self._bar.update(self._task, advance=1, description=text)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
