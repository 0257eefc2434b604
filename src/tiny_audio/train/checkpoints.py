"""The checkpoints of a run: which there are, which is best and last, and what a run goes on with.

    checkpoints/step-00000500/               as model/checkpoint.py writes it, whole or not at all
    checkpoints/step-00000500/training.pt    step, optimizer, data position, random states
    checkpoints/index.json       {"best": "step-…", "last": "step-…", "checkpoints": […]}

The index is written after the checkpoint it names and before any old one is deleted, so a kill at
any moment leaves an index whose folders exist. training.pt is read without unpickling code.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.train.distributed import split_optimizer_state

INDEX = "index.json"
STATE = "training.pt"


@dataclass(frozen=True)
class Entry:
    """One saved checkpoint and how it scored, where it was evaluated at that very step."""

    name: str
    step: int
    wer: float | None = None
    loss: float | None = None


def quality(metric: str, wer: float | None, loss: float | None) -> tuple[float, float]:
    """What evaluations are ordered by, lower is better: the metric, then the other one."""
    figures = [math.inf if figure is None else figure for figure in (wer, loss)]
    return (figures[0], figures[1]) if metric == "wer" else (figures[1], figures[0])


class CheckpointStore:
    """Saves, finds and thins out the checkpoints in a run's folder ``checkpoints``.

    The newest ``keep`` and the best by ``metric``, wer or loss, are kept.
    """

    def __init__(self, folder: Path, *, keep: int, metric: str) -> None:
        self.folder, self.keep, self.metric = folder, max(1, keep), metric
        self.entries = _read_entries(folder)

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        return self.folder / self.entries[-1].name if self.entries else None

    @property
    def best(self) -> Path | None:
        """The checkpoint with the lowest metric; the newest where none was evaluated."""
        return self.folder / self._best(self.entries).name if self.entries else None

    def save(
        self, step: int, write: Callable[[Path], None], *, wer: float | None, loss: float | None
    ) -> None:
        """Write a checkpoint, list it with its scores, then delete those that are no longer kept.

        ``write`` writes a whole checkpoint to the folder it is given, or nothing. Raises
        CheckpointError where the disk refuses; what was there before is untouched.
        """
        target = self.folder / f"step-{step:08d}"
        others = [entry for entry in self.entries if entry.name != target.name]
        entries = sorted([*others, Entry(target.name, step, wer, loss)], key=lambda e: e.step)
        best = self._best(entries)
        kept = [entry for entry in entries if entry in entries[-self.keep :] or entry == best]
        index = {
            "best": best.name,
            "last": entries[-1].name,
            "checkpoints": [asdict(entry) for entry in kept],
        }
        try:
            write(target)
            temporary = self.folder / f".{INDEX}.tmp"
            with temporary.open("w") as stream:
                json.dump(index, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.folder / INDEX)
        except OSError as error:
            raise CheckpointError(
                f"{target}: the checkpoint could not be saved ({error.strerror or error}); "
                f"the last whole one is {self.last or 'missing'}. Free some space, then resume"
            ) from error
        self.entries = kept
        for entry in entries:
            if entry not in kept:
                shutil.rmtree(self.folder / entry.name, ignore_errors=True)

    def _best(self, entries: Sequence[Entry]) -> Entry:
        scored = [entry for entry in entries if entry.loss is not None]
        if not scored:
            return entries[-1]
        return min(scored, key=lambda e: (*quality(self.metric, e.wer, e.loss), e.step))


def _read_entries(folder: Path) -> list[Entry]:
    """The checkpoints in a folder, oldest first, with the scores that the index has of them."""
    try:
        rows = json.loads((folder / INDEX).read_text())["checkpoints"]
        listed = {row["name"]: Entry(**row) for row in rows}
    except (OSError, ValueError):
        listed = {}
    names = sorted(path.name for path in folder.glob("step-*"))
    return [listed.get(name, Entry(name, int(name.removeprefix("step-")))) for name in names]


def resume_point(where: str | None, store: CheckpointStore, output_dir: Path) -> Path | None:
    """The checkpoint that ``training.resume_from_checkpoint`` means, None for a new run.

    ``last`` (of ``output_dir``), a run's folder (its last), or a checkpoint's folder. Raises
    CheckpointError where there is none, ConfigError where ``output_dir`` holds another run, or
    later checkpoints.
    """
    if where is None:
        if store.last is not None:
            raise ConfigError(
                f"output_dir={output_dir} already holds a run; choose another folder, or go on "
                "with training.resume_from_checkpoint=last"
            )
        return None
    run = output_dir if where == "last" else Path(where)
    entries = _read_entries(run / "checkpoints")
    found = run / "checkpoints" / entries[-1].name if entries else run
    if not entries and (where == "last" or not run.is_dir()):
        raise CheckpointError(
            f"training.resume_from_checkpoint={where}: no checkpoint in {run}; with `last`, "
            "output_dir must be the folder of the run that is to go on"
        )
    if store.last is not None and found.resolve() != store.last.resolve():
        raise ConfigError(
            f"output_dir={output_dir} holds later checkpoints than {found}, which a run that goes "
            "on from there would spoil; choose another output_dir"
        )
    return found


def write_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write the state into a checkpoint that is being made. Raises OSError on a full disk."""
    try:
        with (folder / STATE).open("wb") as stream:
            torch.save(dict(state), stream)
    except RuntimeError as error:  # torch's own writer hides the system's error behind its own
        raise OSError(f"{STATE}: {error}") from error


def read_state(folder: Path, *, learns: Collection[str], processes: int) -> dict[str, Any]:
    """Read it back. CheckpointError: there is none, it is damaged, or of another kind of run."""
    path = folder / STATE
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: has no {STATE}, so a run cannot go on from it; to start a new run from its "
            "weights use model.init_from"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        learned, saved = state["learns"], len(state["processes"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: is damaged or cut short ({first})") from None
    if learned != sorted(learns):
        raise CheckpointError(
            f"{folder}: that run had training.learns={learned}, this one has {sorted(learns)}; a "
            "new stage starts with model.init_from, not with training.resume_from_checkpoint"
        )
    if saved != processes:
        raise CheckpointError(
            f"{folder}: that run had {saved} processes, this one has {processes}; start as many, "
            "or start anew from its weights with model.init_from"
        )
    return state


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put the moments back; rates, decay and betas stay those of today's configuration."""
    own = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    try:
        optimizer.load_state_dict(dict(state))
    except ValueError as error:
        raise CheckpointError(
            f"The optimizer's state belongs to other parameters ({error}); restore the "
            "configuration of that run, or start anew with model.init_from"
        ) from None
    split_optimizer_state(optimizer)
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)


def rng_state(extra: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """States of the global generators and of the ``extra`` ones, by name; plain values, tensors."""
    kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "extra": {name: generator.get_state() for name, generator in extra.items()},
    }


def restore_rng(state: Mapping[str, Any], extra: Mapping[str, torch.Generator]) -> None:
    """Put back what ``rng_state`` took; devices that this machine has not are passed over."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    for name, generator in extra.items():
        generator.set_state(state["extra"][name])
