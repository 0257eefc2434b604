"""What learns, as a table, at which rate, and how the layers around it run.

    stage        projector   lora adapters    experiment
    1 projector  learns      none             +experiments=transcription
    2 lora       frozen      learn            +experiments=mlp_lora
    3 joint      learns      learn            +experiments=mlp_fine_tune

``training.learns`` is a row of it; ``decoder`` may stand there too, for the whole language model.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tiny_audio.config import TrainingConfig
from tiny_audio.errors import ConfigError
from tiny_audio.model.speech import SpeechModel

PARTS = ("projector", "lora", "decoder")


def part_of(name: str) -> str:
    """The part that a parameter of the speech model belongs to, by its name."""
    top = name.split(".", 1)[0]
    return "lora" if top == "decoder" and ".lora_" in name else top  # PEFT names adapters so


def check_stage(learns: Collection[str], *, requires_init: bool, init_from: str | None) -> None:
    """Raise ConfigError for an unknown part, for none, or for a later stage with no start."""
    unknown = sorted(set(learns) - set(PARTS))
    if unknown or not learns:
        given = ", ".join(unknown) or "empty"
        raise ConfigError(f"training.learns is {given}; name one or more of {', '.join(PARTS)}")
    if init_from is None and (requires_init or "projector" not in learns):
        raise ConfigError("stage 2 and 3 start from a trained projector: model.init_from=DIR")


def apply_learns(model: nn.Module, learns: Collection[str]) -> dict[str, int]:
    """Make exactly the named parts of a SpeechModel learn; the others are frozen, in eval mode.

    Parts that learn are kept in float32, whatever the compute dtype: AdamW's small updates would
    be rounded away in bf16. Returns the number of parameters that learn, by part, in the table's
    order. Raises ConfigError for a part that has no parameters.
    """
    counts = {part: 0 for part in PARTS if part in learns}
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
        frozen = part in (*PARTS, "encoder") and part not in learns
        module.training = not frozen or (recomputed and module.gradient_checkpointing)


def lr_multiplier(step: int, settings: TrainingConfig) -> float:
    """Share of the peak learning rate at update number ``step``, counted from 0.

    Rises linearly to 1 over ``warmup_steps`` updates (a tenth of a run that is too short for them),
    then falls along half a cosine to ``min_lr_rate`` at the last one (Loshchilov & Hutter 2017).
    """
    warmup, steps, lowest = settings.warmup_steps, settings.max_steps, settings.min_lr_rate
    if 2 * warmup > steps:
        warmup = steps // 10
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(model: nn.Module, settings: TrainingConfig) -> list[dict[str, Any]]:
    """Group the parameters that learn by part, and within a part by whether they decay.

    Norm gains and biases (one dimension) never decay. Beside the keys that torch's optimizers read
    each group has its ``part`` and ``peak_lr``. Raises ConfigError for a rate that is not positive.
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        prefix = "" if part == "projector" else f"{part}_"
        rate = getattr(settings, f"{prefix}learning_rate")
        decay = max(0.0, getattr(settings, f"{prefix}weight_decay"))
        if rate <= 0:
            raise ConfigError(f"training.{prefix}learning_rate={rate}: must be above 0 to learn")
        decay = decay if parameter.ndim > 1 else 0.0
        fresh = {"part": part, "params": [], "lr": rate, "peak_lr": rate, "weight_decay": decay}
        groups.setdefault((part, decay), fresh)["params"].append(parameter)
    return list(groups.values())


def checkpoint_decoder(decoder: PreTrainedModel) -> None:
    """Recompute the decoder's layers in the backward pass; takes effect in ``training_mode``."""
    # The first name is that from transformers 5.23 on.
    enable = getattr(decoder, "activation_checkpointing_enable", None)
    (enable or decoder.gradient_checkpointing_enable)({"use_reentrant": False})


def compile_layers(
    model: SpeechModel, say: Callable[[str], object], *, backend: str = "inductor"
) -> None:
    """Put each layer of encoder and decoder through torch.compile, or ``say`` why not.

    All layers of a stack share one program in which lengths are dynamic. Weights keep their names.
    """
    if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        say(
            "training.torch_compile=true: no C++ compiler is found (g++ or clang++), which "
            "torch.compile needs; training goes on without."
        )
        return
    for layer in _layers(model):
        layer.compile(dynamic=True, backend=backend)


def eagerly(model: SpeechModel) -> AbstractContextManager[Any]:
    """A context in which compiled layers run eagerly, for the many shapes of transcribing."""
    compiled = any(layer._compiled_call_impl is not None for layer in _layers(model))
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _layers(model: SpeechModel) -> list[nn.Module]:
    lm: Any = model.causal_lm
    return [*model.encoder.tower.layers, *lm.base_model.layers]
