"""From what a user types for a model to a model: a name, a checkpoint, a run, or a hub id."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

import torch

from tiny_audio.errors import CheckpointError, HubError, ModelError
from tiny_audio.hub import is_hub_id, snapshot
from tiny_audio.model.build import ASSETS
from tiny_audio.model.checkpoint import INFO, load_checkpoint
from tiny_audio.model.speech import SpeechModel

BUNDLED = {"nano": ASSETS / "nano" / "recogniser"}
_RUN_INDEX = Path("checkpoints") / "index.json"


def resolve_model(
    name: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | None = None,
    attn_implementation: str | None = None,
) -> SpeechModel:
    """Load the recogniser called ``name``, ready to transcribe.

    Args:
        name: ``nano`` (bundled), a checkpoint folder, a run folder (its best checkpoint), or the
            id of a checkpoint on the Hugging Face Hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: of the frozen weights; None: as in training.
        attn_implementation: None: as in training.

    Raises:
        HubError, ModelError, CheckpointError: there is no such model, or it does not load.
    """
    return load_checkpoint(
        find_checkpoint(name), device=device, dtype=dtype, attn_implementation=attn_implementation
    )


def find_checkpoint(name: str, which: str = "best") -> Path:
    """The checkpoint folder that ``name`` stands for, see ``resolve_model``.

    Args:
        which: ``best`` or ``last``, of a run.
    """
    if name in BUNDLED:
        return BUNDLED[name]
    folder = Path(name)
    if (folder / INFO).is_file():
        return folder
    if (folder / _RUN_INDEX).is_file():
        return _of_run(folder, which)
    if folder.exists():
        raise CheckpointError(
            f"{name}: is neither a checkpoint (no {INFO}) nor a run (no {_RUN_INDEX})"
        )
    return _from_hub(name)


def _of_run(folder: Path, which: str) -> Path:
    index = json.loads((folder / _RUN_INDEX).read_text())
    chosen = index.get(which) or index.get("last")
    if not chosen:
        raise CheckpointError(f"{folder}: this run has not saved a checkpoint yet")
    return folder / _RUN_INDEX.parent / str(chosen)


def _from_hub(name: str) -> Path:
    near = get_close_matches(name, BUNDLED, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    if not is_hub_id(name):
        raise ModelError(f"{name}: there is no such folder; known names: {list(BUNDLED)}{hint}")
    try:
        folder = snapshot(name)
    except HubError as error:
        raise HubError(f"no folder here, and on the hub: {error}{hint}") from None
    if not (folder / INFO).is_file():
        raise ModelError(f"{name}: is on the hub but is no Tiny Audio checkpoint (no {INFO})")
    return folder
