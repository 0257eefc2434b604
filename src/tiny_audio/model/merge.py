"""Fold adapters into the decoder: one model without PEFT, with the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from rich.console import Console
from torch import Tensor

from tiny_audio.errors import CheckpointError, ModelError
from tiny_audio.model.checkpoint import load_checkpoint, read_config, read_info
from tiny_audio.model.decoder import embedding_table
from tiny_audio.model.lora_report import lora_report
from tiny_audio.model.resolve import find_checkpoint
from tiny_audio.model.saving import save_checkpoint
from tiny_audio.model.speech import SpeechModel

_TOLERANCE = 1e-3  # largest difference of a logit that rounding in fp32 explains, with room
_PROBE = 64  # tokens on which logits are compared


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    folder: Path
    adapters: int  # folded in
    largest_difference: float  # of a logit, before against after


def merge_command(folder: str, out: str, device: str = "auto") -> Merged:
    """Merge the adapters of checkpoint ``folder`` and write the result to ``out``; say so.

    Raises:
        CheckpointError: no adapters to merge, or ``out`` exists.
        ModelError: the logits changed.
    """
    merged = merge_checkpoint(find_checkpoint(folder), Path(out), device=device)
    Console().print(
        f"Merged {merged.adapters} adapters into the decoder: {merged.folder}\n"
        f"Largest difference of a logit on {_PROBE} random tokens: "
        f"{merged.largest_difference:.1e} (fp32). The decoder is now stored whole.",
        highlight=False,
    )
    return merged


def merge_checkpoint(folder: Path, out: Path, *, device: str) -> Merged:
    """Write a checkpoint whose decoder has the adapters of ``folder`` folded in.

    The arithmetic and the stored decoder are fp32, whatever the compute dtype: bf16 would round
    away most of a small update.
    """
    info = read_info(folder)
    if "lora" not in info.parts:
        raise CheckpointError(f"{folder}: has no adapters to merge (it holds {info.parts})")
    if out.exists():
        raise CheckpointError(f"{out}: exists; choose a new folder for the merged checkpoint")
    model = load_checkpoint(folder, device=device, dtype="float32")
    adapters = len(lora_report(model.decoder))
    before = _probe_logits(model)
    merge_adapters(model)
    difference = float((_probe_logits(model) - before).abs().max())
    if not difference < _TOLERANCE:
        raise ModelError(
            f"{folder}: merging changed a logit by {difference:.2g}; nothing was written"
        )
    metadata = {**info.metadata, "merged_from": folder.name}
    save_checkpoint(model, out, config=read_config(folder), metadata=metadata)
    return Merged(out, adapters, difference)


def merge_adapters(model: SpeechModel) -> None:
    """Fold a model's adapters into its decoder, in place; the decoder counts as changed."""
    wrapped = model.decoder
    if not isinstance(wrapped, PeftModel):
        raise ModelError("the model has no adapters to merge")
    model.decoder = cast(torch.nn.Module, wrapped.merge_and_unload())
    model.decoder.requires_grad_(False)
    model.decoder_changed = True


@torch.no_grad()
def _probe_logits(model: SpeechModel) -> Tensor:
    """Logits [1, T, V] of the decoder on fixed random tokens."""
    lm = model.causal_lm
    vocabulary = embedding_table(lm).shape[0]
    ids = torch.randint(vocabulary, (1, _PROBE), generator=torch.Generator().manual_seed(0))
    return cast(Tensor, lm(input_ids=ids.to(model.device), use_cache=False).logits)
