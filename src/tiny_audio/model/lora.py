"""Low-rank adapters on the frozen decoder (LoRA, Hu et al., arXiv 2106.09685), through PEFT.

A linear layer W gets ``lora_alpha / r * B @ A`` added, A [r, in] and B [out, r] in fp32. B starts
at zero, so that a fresh adapter changes nothing. The base keeps its dtype and stays frozen.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, cast

from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import nn
from transformers import PreTrainedModel

from tiny_audio.errors import CheckpointError, ConfigError, first_line
from tiny_audio.model.weights import check_tensors, read_tensors, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's names
ADAPTER = "default"  # PEFT's name for the only adapter


def add_lora(
    decoder: PreTrainedModel,
    *,
    r: int,
    lora_alpha: int,
    lora_dropout: float,
    target_modules: Sequence[str],
) -> PeftModel:
    """Put fresh adapters of rank ``r`` into a decoder, in place; they alone require gradients.
    ``target_modules`` are names (or their ends) of linear layers; ``all-linear``: every one except
    the output embedding. Raises ConfigError: a value that PEFT refuses, or the output embedding."""
    # The loss calls the output embedding on label positions only, and it may be tied.
    head = decoder.get_output_embeddings()
    name = next((n for n, module in decoder.named_modules() if module is head), "")
    for target in target_modules:
        if f".{name}".endswith(f".{target}"):
            raise ConfigError(
                f"model.lora.target_modules: {target} is the output embedding, which stays as it "
                "is; leave it out"
            )
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules="all-linear" if "all-linear" in target_modules else list(target_modules),
    )
    try:
        return _wrap(decoder, config)
    except ValueError as error:
        raise ConfigError(f"model.lora: {first_line(error)}") from None


def save_adapter(model: PeftModel, folder: Path, *, base: str) -> None:
    """Write the adapters as PEFT does, so that PEFT alone can load them onto ``base``, a hub id."""
    folder.mkdir(parents=True, exist_ok=True)
    # save_embedding_layers: PEFT's default asks the hub whether the vocabulary was resized.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    write_tensors(state, folder / WEIGHTS)
    config = copy(cast(LoraConfig, model.peft_config[ADAPTER]))
    config.inference_mode = True
    config.base_model_name_or_path = base
    if not isinstance(config.target_modules, str):  # a set: in its order every file would differ
        config.target_modules = sorted(config.target_modules or [])
    config.save_pretrained(str(folder))


def load_adapter(
    decoder: nn.Module, folder: Path, learn: Mapping[str, Any] | None = None
) -> PeftModel:
    """Add adapters written by ``save_adapter`` or PEFT to a decoder, strictly. ``learn``: what
    ``add_lora`` is given for adapters that learn on; None: they are frozen. Raises CheckpointError:
    something is missing, damaged or different."""
    if not (folder / CONFIG).is_file():  # first, or PEFT would look for it on the hub
        raise CheckpointError(f"{folder}: has no {CONFIG}; the adapter is incomplete")
    try:
        config = cast(LoraConfig, PeftConfig.from_pretrained(str(folder)))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: is damaged ({first_line(error)})") from None
    config.inference_mode = learn is None
    if learn is not None:
        config.lora_dropout = learn["lora_dropout"]
        for field in ("r", "lora_alpha"):
            if (there := getattr(config, field)) != learn[field]:
                raise CheckpointError(
                    f"{folder}: the adapter has {field}={there}, this run {learn[field]}; set "
                    "model.lora as it was in training"
                )
    state = read_tensors(folder / WEIGHTS)
    try:
        model = _wrap(cast(PreTrainedModel, decoder), config)
    except ValueError as error:
        raise CheckpointError(f"{folder}: is for another base: {first_line(error)}") from None
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    check_tensors(expected, state, folder / WEIGHTS, CheckpointError)
    set_peft_model_state_dict(model, state)
    return model.train(decoder.training)


def _wrap(decoder: PreTrainedModel, config: LoraConfig) -> PeftModel:
    config.base_model_name_or_path = None  # or PEFT warns where the base has another name
    with warnings.catch_warnings():  # PEFT asks transformers 5 by a name that it deprecates
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return cast(PeftModel, get_peft_model(decoder, config))
