"""The command group `tiny-audio data`; imports what a command needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(
    help="Look at data before it is trained on.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@data.callback()
def root() -> None:
    """Keeps `check` a command of its own while it is the only one."""


@data.command("check")
def check(
    what: Annotated[
        str, typer.Argument(metavar="DATA", help="a manifest, a folder or the name of a preset")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings as for train")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first so many of each source")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the report [default: in runs/]")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="an evaluation set to look for in it; may be repeated"),
    ] = None,
    model: Annotated[str, typer.Option(help="the pair, for token counts")] = "nano",
    part: Annotated[str, typer.Option(help="of a preset: train or eval")] = "train",
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 if anything is found")] = False,
) -> None:
    """Report what a set holds: lengths, words, repeats, leaks, rejects, tokens."""
    from tiny_audio.data.check import check_command

    report = check_command(
        what,
        settings or [],
        limit=limit,
        out=out,
        against=against or [],
        model=model,
        part=part,
    )
    raise typer.Exit(1 if strict and report["findings"] else 0)
