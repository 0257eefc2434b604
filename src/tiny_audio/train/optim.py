"""The optimizer's parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tiny_audio.errors import ConfigError
from tiny_audio.train.stages import part_of


def lr_multiplier(step: int, *, warmup_steps: int, max_steps: int, min_ratio: float) -> float:
    """Share of the peak learning rate at update number ``step``, counted from 0.

    Rises linearly to 1 over ``warmup_steps`` updates (a tenth of a run that is too short for them),
    then falls along half a cosine to ``min_ratio`` at the last one (Loshchilov & Hutter 2017).
    """
    if 2 * warmup_steps > max_steps:
        warmup_steps = max_steps // 10
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = max(1, max_steps - 1 - warmup_steps)
    done = min(1.0, (step - warmup_steps) / rest)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(
    model: nn.Module, *, lr: Mapping[str, float], weight_decay: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Group the parameters that learn by part, and within a part by whether they decay.

    Norm gains and biases (one dimension) never decay. Each group has a ``name``, its part's
    ``peak_lr``, and the keys that torch's optimizers read.

    Args:
        model: stage applied, not yet wrapped.
        lr: peak learning rate by part.
        weight_decay: by part.

    Raises:
        ConfigError: a part that is to learn has no positive learning rate.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        if lr.get(part, 0.0) <= 0:
            key = "learning_rate" if part == "projector" else f"{part}_learning_rate"
            raise ConfigError(f"training.{key} is {lr.get(part)}; it must be above 0 to learn")
        decay = max(0.0, weight_decay[part]) if parameter.ndim > 1 else 0.0
        name = part if decay > 0 or weight_decay[part] <= 0 else f"{part} (no decay)"
        fresh = {
            "name": name,
            "part": part,
            "params": [],
            "lr": lr[part],
            "peak_lr": lr[part],
            "weight_decay": decay,
        }
        groups.setdefault(name, fresh)["params"].append(parameter)
    return list(groups.values())


def set_lr(optimizer: torch.optim.Optimizer, multiplier: float) -> dict[str, float]:
    """Set every group's rate to its peak times ``multiplier``; return the rate by part."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
        rates[group["part"]] = group["lr"]
    return rates
