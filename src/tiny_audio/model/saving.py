"""Writing a checkpoint: to a temporary folder that is then renamed, so that it is whole or absent.

What is in it says model/checkpoint.py, which reads it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperFeatureExtractor

from tiny_audio import config as schema
from tiny_audio.errors import CheckpointError
from tiny_audio.model.checkpoint import (
    ADAPTER,
    CONFIG,
    DECODER,
    FORMAT,
    INFO,
    WEIGHTS,
    tied_names,
)
from tiny_audio.model.lora import save_adapter
from tiny_audio.model.speech import SpeechModel


def save_checkpoint(
    model: SpeechModel,
    folder: Path,
    *,
    config: schema.Config,
    metadata: Mapping[str, Any],
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint to ``folder``; it appears whole or not at all.

    Args:
        model: its projector, adapters and, where changed, decoder are written.
        folder: replaced where it exists.
        config: the run's resolved configuration.
        metadata: JSON values to keep beside the weights, for example step and metrics.
        extra: called with the temporary folder to write further files, for example the
            optimizer's state.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(model, part, config, metadata)
        if extra is not None:
            extra(part)
        _sync(part)
        _replace(part, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint could not be written ({error}); free some space or choose "
            "another output_dir. Earlier checkpoints are untouched"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(
    model: SpeechModel, folder: Path, config: schema.Config, metadata: Mapping[str, Any]
) -> None:
    parts = ["projector"]
    state = {f"projector.{k}": _plain(v) for k, v in model.projector.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    if isinstance(model.decoder, PeftModel):
        parts.append("lora")
        save_adapter(model.decoder, folder / ADAPTER, base=config.model.decoder.id)
    if model.decoder_changed:
        parts.append("decoder")
        save_file(_own_decoder_state(model), folder / DECODER, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(folder)
    features = model.features
    WhisperFeatureExtractor(
        feature_size=features.n_mels, n_fft=features.n_fft, hop_length=features.hop
    ).save_pretrained(folder)
    OmegaConf.save(OmegaConf.structured(config), folder / CONFIG)
    info = {
        "format": FORMAT,
        "parts": parts,
        "identity": model.identity,
        "revisions": {
            "encoder": config.model.encoder.revision,
            "decoder": config.model.decoder.revision,
        },
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "metadata": dict(metadata),
    }
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n")


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _own_decoder_state(model: SpeechModel) -> dict[str, Tensor]:
    """The decoder's weights without adapters and without the second name of tied tensors."""
    tied = tied_names(model.causal_lm)
    state = {}
    for key, value in model.causal_lm.state_dict().items():
        if ".lora_" in key or key in tied:
            continue
        state[key.replace(".base_layer.", ".")] = _plain(value)
    return state


def _sync(folder: Path) -> None:
    """Ask the system to put every file on the disk before the folder gets its name."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _replace(part: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
