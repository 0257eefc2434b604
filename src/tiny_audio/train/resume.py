"""training.pt in a checkpoint: all that a run needs, beside the weights, to go on as if nothing
had happened: step, optimizer, position in the data, every random state, metrics so far.

It holds tensors and plain values only, so it is read without unpickling code.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tiny_audio.errors import CheckpointError
from tiny_audio.train.rng import restore_rng, rng_state
from tiny_audio.train.sharding import split_optimizer_state, whole_state

STATE = "training.pt"


class Stateful(Protocol):
    """A stream of batches that knows where it stands."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


def collect_state(
    run: Mapping[str, Any],
    accelerator: Accelerator,
    stream: Stateful,
    generators: Mapping[str, torch.Generator],
) -> dict[str, Any]:
    """Everything to be saved; all processes must call it, for each has its own data and RNG.

    Args:
        run: the trainer's own state.
        accelerator: of the run.
        stream: of this process.
        generators: random generators that torch does not keep itself, by name.
    """
    mine = {"data": stream.state_dict(), "rng": rng_state(generators)}
    return {**whole_state(dict(run)), "processes": gather_object([mine])}


def write_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write the state into a checkpoint that is being made. Raises OSError on a full disk."""
    try:
        with (folder / STATE).open("wb") as stream:
            torch.save(dict(state), stream)
    except RuntimeError as error:  # torch's own writer hides the system's error behind its own
        raise OSError(f"{STATE}: {error}") from error


def read_state(folder: Path, *, learns: Collection[str], processes: int) -> dict[str, Any]:
    """Read the state back.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another kind of run.
    """
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


def restore_process(
    state: Mapping[str, Any],
    accelerator: Accelerator,
    stream: Stateful,
    generators: Mapping[str, torch.Generator],
) -> None:
    """Put this process's data position and random states back."""
    mine = state["processes"][accelerator.process_index]
    stream.load_state_dict(mine["data"])
    restore_rng(mine["rng"], generators)


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
