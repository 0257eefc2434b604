"""Modules with random weights that are the same in every process, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def random_module(
    make: Callable[[], Module], seed: int, dtype: torch.dtype, device: torch.device
) -> Module:
    """Call ``make`` under a seed, in the wanted number format; the global RNG is left as it was.

    Made on the CPU whatever the device, so that every device gets the same weights, and in the
    wanted format from the start, so that a large model never exists twice in fp32. On the meta
    device the module has shapes and no numbers.
    """
    made_on = device if device.type == "meta" else torch.device("cpu")
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), made_on:
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            module = make()
        finally:
            torch.set_default_dtype(before)
    return module.to(device)
