"""Every random state of a process, taken and put back, so that a resumed run draws the same."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch


def seed_everything(seed: int, rank: int) -> None:
    """Seed Python, NumPy and torch; each process draws its own numbers."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)  # CUDA and MPS too


def rng_state(extra: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """States of the global generators and of the ``extra`` ones, by name; plain values, tensors."""
    kind, words, *rest = cast(tuple[str, Any, int, int, float], np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (kind, words.tolist(), *rest),
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
