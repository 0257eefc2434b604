"""The checkpoints of a run: which there are, which is best and last, and what a run goes on with.

    checkpoints/step-00000500/               as model/checkpoint.py writes it, whole or not at all
    checkpoints/step-00000500/training.pt    step, optimizer, data position, random states
    checkpoints/index.json                   {"best": "step-…" or null, "last": "step-…"}

The index is written after the checkpoint it names and before any old one is deleted, so a kill at
any moment leaves an index whose folders exist. training.pt is read without unpickling code.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tiny_audio.errors import CheckpointError, ConfigError, first_line
from tiny_audio.train.distributed import split_optimizer_state

INDEX = "index.json"
STATE = "training.pt"


class CheckpointStore:
    """Saves, finds and thins out the checkpoints in a run's folder ``checkpoints``: the newest
    ``keep`` and the best stay."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, max(1, keep)
        self.names = sorted(path.name for path in folder.glob("step-*"))
        try:
            best = json.loads((folder / INDEX).read_text())["best"]
        except (OSError, ValueError):
            best = None
        self._best = best if best in self.names else None

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        return self.folder / self.names[-1] if self.names else None

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best evaluation; the newest where none was evaluated."""
        return self.last if self._best is None else self.folder / self._best

    def save(self, step: int, write: Callable[[Path], None], *, best: bool) -> None:
        """Write a checkpoint, list it, then delete those that are no longer kept.

        ``write`` writes a whole checkpoint to the folder it is given, or nothing; ``best``: no
        evaluation was better. Raises CheckpointError where the disk refuses; what was there before
        is untouched.
        """
        target = self.folder / f"step-{step:08d}"
        names, chosen = sorted({*self.names, target.name}), target.name if best else self._best
        kept = [name for name in names if name in (*names[-self.keep :], chosen)]
        try:
            write(target)
            temporary = self.folder / f".{INDEX}.tmp"
            with temporary.open("w") as stream:
                json.dump({"best": chosen, "last": names[-1]}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.folder / INDEX)
        except OSError as error:
            raise CheckpointError(
                f"{target}: the checkpoint could not be saved ({error.strerror or error}); "
                f"the last whole one is {self.last or 'missing'}. Free some space, then resume"
            ) from error
        self.names, self._best = kept, chosen
        for name in names:
            if name not in kept:
                shutil.rmtree(self.folder / name, ignore_errors=True)


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
    newest = CheckpointStore(run / "checkpoints", keep=1).last
    found = newest or run
    if newest is None and (where == "last" or not run.is_dir()):
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
        raise CheckpointError(f"{path}: is damaged or cut short ({first_line(error)})") from None
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


def rng_state(augment: torch.Generator) -> dict[str, Any]:
    """States of the global generators and of SpecAugment's; plain values and tensors."""
    kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        **{name: device.get_rng_state() for name, device in _devices().items()},
        "extra": {"spec_augment": augment.get_state()},
    }


def restore_rng(state: Mapping[str, Any], augment: torch.Generator) -> None:
    """Put back what ``rng_state`` took; devices that this machine has not are passed over."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for name, device in _devices().items():
        if state.get(name) is not None:
            device.set_rng_state(state[name])
    augment.set_state(state["extra"]["spec_augment"])


def _devices() -> dict[str, Any]:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return {name: getattr(torch, name) for name, is_there in there.items() if is_there}
