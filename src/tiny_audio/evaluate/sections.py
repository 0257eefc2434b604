"""Tables with a heading, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Section:
    """A table: cells are texts. text: the columns (by place) that are words and not figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text: Sequence[int] = field(default=(0,))

    def table(self) -> Table:
        """For the terminal."""
        result = Table(
            title=escape(self.title),
            title_justify="left",
            caption=escape(self.note) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for place, column in enumerate(self.columns):
            words = place in self.text
            longest = max((len(row[place]) for row in self.rows), default=0)
            result.add_column(
                column,
                justify="left" if words else "right",
                overflow="fold",
                no_wrap=not words,
                min_width=min(longest, 14) if words else None,
            )
        for row in self.rows:
            result.add_row(*map(escape, row))
        return result

    def markdown(self) -> str:
        """For notes and model cards."""
        rule = ["---" if place in self.text else "---:" for place in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        table = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
        return f"### {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")


def show(sections: Iterable[Section], *, markdown: bool) -> None:
    """Print tables one after the other."""
    console = Console()
    for section in sections:
        if markdown:
            print(section.markdown())
        else:
            console.print(section.table())


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
