"""What learns, as a table, and how the layers around it run.

    stage        projector   lora adapters    experiment
    1 projector  learns      none             +experiments=transcription
    2 lora       frozen      learn            +experiments=mlp_lora
    3 joint      learns      learn            +experiments=mlp_fine_tune

``training.learns`` is a row of it; ``decoder`` may stand there too, for the whole language model.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tiny_audio.errors import ConfigError
from tiny_audio.model.speech import SpeechModel

PARTS = ("projector", "lora", "decoder")

_COMPILERS = ("c++", "g++", "clang++", "cl")


def part_of(name: str) -> str:
    """The part that a parameter of the speech model belongs to, by its name.

    PEFT puts ``lora_`` into the name of every tensor of an adapter.
    """
    top = name.split(".", 1)[0]
    return "lora" if top == "decoder" and ".lora_" in name else top


def check_stage(learns: Collection[str], *, requires_init: bool, init_from: str | None) -> None:
    """Raise ConfigError for an unknown part, for none, or for a later stage with no start."""
    unknown = sorted(set(learns) - set(PARTS))
    if unknown or not learns:
        given = ", ".join(unknown) or "empty"
        raise ConfigError(f"training.learns is {given}; name one or more of {', '.join(PARTS)}")
    if init_from is None and (requires_init or "projector" not in learns):
        raise ConfigError("stage 2 and 3 start from a trained projector: model.init_from=DIR")


def apply_learns(model: nn.Module, learns: Collection[str]) -> dict[str, int]:
    """Make exactly the named parts learn; everything else is frozen and in eval mode.

    Parts that learn are kept in float32, whatever the compute dtype: AdamW's small updates would
    be rounded away in bf16.

    Args:
        model: a SpeechModel, with its adapters added where ``lora`` learns.
        learns: names out of ``PARTS``.

    Returns:
        Number of parameters that learn, by part, in the table's order.

    Raises:
        ConfigError: a part is to learn but has no parameters.
    """
    counts = dict.fromkeys((part for part in PARTS if part in learns), 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in counts)
        parameter.grad = None
        if part in counts:
            parameter.data = parameter.data.float()
            counts[part] += parameter.numel()
    for part, count in counts.items():
        if count == 0:
            raise ConfigError(f"training.learns holds {part}, but this model has no {part}")
    training_mode(model, learns)
    return counts


def training_mode(model: nn.Module, learns: Collection[str]) -> None:
    """Put the parts that learn into train mode and frozen parts into eval mode.

    A frozen part in train mode would drop out what it should pass on. Layers that are recomputed in
    the backward pass are an exception: transformers recomputes in train mode only, so it is set on
    the layers themselves, and on nothing inside them.
    """
    for name, module in model.named_modules():
        part = part_of(f"{name}.")
        recomputed = isinstance(module, GradientCheckpointingLayer) and part == "decoder"
        module.training = (
            part in learns
            or part not in (*PARTS, "encoder")
            or (recomputed and module.gradient_checkpointing)
        )


def checkpoint_decoder(decoder: PreTrainedModel) -> None:
    """Recompute the decoder's layers in the backward pass; takes effect in ``training_mode``."""
    if hasattr(decoder, "activation_checkpointing_enable"):  # its name from transformers 5.23 on
        decoder.activation_checkpointing_enable({"use_reentrant": False})
    else:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})


def compile_layers(
    model: SpeechModel, say: Callable[[str], object], *, backend: str = "inductor"
) -> None:
    """Put each layer of encoder and decoder through torch.compile, or ``say`` why not.

    All layers of a stack share one program in which lengths are dynamic: a handful of programs are
    made in the first step, none for later shapes. Weights keep their names.
    """
    if backend == "inductor" and not any(map(shutil.which, _COMPILERS)):
        say(
            "training.torch_compile=true: no C++ compiler is found (g++ or clang++), which "
            "torch.compile needs; training goes on without."
        )
        return
    for layer in _layers(model):
        layer.compile(dynamic=True, backend=backend)


def eagerly(model: SpeechModel) -> AbstractContextManager[Any]:
    """A context in which compiled layers run eagerly, for the many shapes of transcribing."""
    if all(layer._compiled_call_impl is None for layer in _layers(model)):
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _layers(model: SpeechModel) -> list[nn.Module]:
    lm: Any = model.causal_lm
    return [*model.encoder.tower.layers, *lm.base_model.layers]
