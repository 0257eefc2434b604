"""`training.torch_compile`: the layers of encoder and decoder through torch.compile.

Each layer is compiled by itself: all layers of one stack share one program, and lengths are dynamic
in it, so that a run compiles a handful of programs in its first step and none for later shapes.
Weights, their names and checkpoints stay what they are. Transcribing in between runs eagerly: it
has other shapes at every token.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from tiny_audio.model.speech import SpeechModel

_COMPILERS = ("c++", "g++", "clang++", "cl")
_MISSING = (
    "training.torch_compile=true: no C++ compiler is found (g++ or clang++), which "
    "torch.compile needs; training goes on without."
)


def stack(model: SpeechModel) -> list[nn.Module]:
    """The layers of encoder and decoder."""
    lm: Any = model.causal_lm
    return [*model.encoder.tower.layers, *lm.base_model.layers]


def compile_layers(
    model: SpeechModel, say: Callable[[str], object], *, backend: str = "inductor"
) -> None:
    """Compile from the next call on, or say why not.

    Args:
        say: takes a line for the user.
        backend: of torch.compile; all but ``inductor`` need no compiler.
    """
    if backend == "inductor" and not any(map(shutil.which, _COMPILERS)):
        say(_MISSING)
        return
    for layer in stack(model):
        layer.compile(dynamic=True, backend=backend)


def eagerly(model: SpeechModel) -> AbstractContextManager[Any]:
    """A context in which compiled layers run as if they were not."""
    if all(layer._compiled_call_impl is None for layer in stack(model)):
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
