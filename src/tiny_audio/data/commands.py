"""The command group `tiny-audio data`; imports what a command needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings as for train")
]
_Against = Annotated[
    list[str] | None,
    typer.Option(metavar="SET", help="an evaluation set to look for in it; may be repeated"),
]


@data.callback()
def root() -> None:
    """Look at data before it is trained on."""  # keeps `check` a command of its own


@data.command("check")
def check(
    what: Annotated[str, typer.Argument(metavar="DATA", help="a manifest, folder or preset")],
    settings: _Settings = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many of each source")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the report [runs/...]")] = None,
    against: _Against = None,
    model: Annotated[str, typer.Option(help="the pair, for token counts")] = "nano",
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 if anything is found")] = False,
) -> None:
    """Report what a set holds: lengths, words, repeats, leaks, rejects, tokens."""
    from tiny_audio.data.check import check_command

    report = check_command(
        what, settings or [], limit=limit, out=out, against=against or [], model=model
    )
    raise typer.Exit(1 if strict and report["findings"] else 0)
