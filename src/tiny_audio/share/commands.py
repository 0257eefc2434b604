"""The commands that send a model or a set somewhere; they import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Repository = Annotated[str, typer.Argument(metavar="USER/NAME", help="on the hub")]
Private = Annotated[bool, typer.Option("--private", help="visible to its owner alone")]
Branch = Annotated[str | None, typer.Option(help="branch [default: main]")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show what would be sent")]
CreatePr = Annotated[bool, typer.Option("--create-pr", help="propose it as a pull request")]


def push(
    model: Annotated[str, typer.Argument(metavar="RUN", help="a run's folder or a checkpoint")],
    name: Repository,
    private: Private = False,
    revision: Branch = None,
    dry_run: DryRun = False,
    create_pr: CreatePr = False,
) -> None:
    """Send a trained model and its card to the Hugging Face Hub, in one commit."""
    from tiny_audio.share.hub import Target, push_command

    push_command(model, Target(name, "model", revision, private, create_pr, dry_run))


def export(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="nano, a checkpoint, a run's folder or a hub id")
    ],
    out: Annotated[Path, typer.Argument(help="a new folder")],
    kind: Annotated[
        str, typer.Option("--format", help="transformers: its own classes; pipeline: with ours")
    ] = "transformers",
) -> None:
    """Write a trained model as a folder that transformers loads."""
    from tiny_audio.share.export import export_command

    export_command(model, out, kind)


def push_data(
    what: Annotated[str, typer.Argument(metavar="DATA", help="a folder or a manifest")],
    name: Repository,
    split: Annotated[str, typer.Option(help="which part of the set this is")] = "train",
    private: Private = False,
    revision: Branch = None,
    dry_run: DryRun = False,
    create_pr: CreatePr = False,
) -> None:
    """Send recordings with their transcripts to the hub as parquet files, in one commit."""
    from tiny_audio.share.data import data_push_command
    from tiny_audio.share.hub import Target

    target = Target(name, "dataset", revision, private, create_pr, dry_run)
    data_push_command(what, target, split)
