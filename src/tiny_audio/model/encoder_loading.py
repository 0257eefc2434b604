"""From a hub id or folder to a frozen encoder: GLM-ASR's tower, Whisper's half, or any other."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, GlmAsrEncoderConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.glmasr.modeling_glmasr import GlmAsrEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tiny_audio.errors import ModelError
from tiny_audio.model.encoder import AudioEncoder, GlmEncoder, WhisperStyleEncoder
from tiny_audio.model.plain_encoder import PlainEncoder
from tiny_audio.model.random_init import random_module
from tiny_audio.model.weights import CheckpointFiles, read_matching

log = logging.getLogger(__name__)

_GLM = ("glmasr", "glmasr_encoder")
# model_type in the checkpoint's config.json -> what marks the encoder's tensors in their names
_MARKERS = {"glmasr": "audio_tower", "glmasr_encoder": "", "whisper": "encoder"}


def load_encoder(
    source: str,
    *,
    revision: str | None,
    padding: str,
    attn_implementation: str,
    dtype: torch.dtype,
    device: torch.device,
) -> AudioEncoder | PlainEncoder:
    """Load the frozen encoder of a checkpoint; other parts of the checkpoint are never read.

    Args:
        source: hub id or folder.
        revision: commit or tag on the hub.
        padding: ``tight`` or ``native``.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``.

    Raises:
        ModelError: not a checkpoint, tensors missing or of another shape.
    """
    files = CheckpointFiles(source, revision)
    raw = files.read_json("config.json")
    kind = raw.get("model_type", "")
    if kind not in _MARKERS:
        return PlainEncoder.load(source, revision=revision, dtype=dtype, device=device)
    config = _encoder_config(raw)
    config._attn_implementation = attn_implementation
    with torch.device("meta"):
        tower: Any = _tower_class(kind)(config)
    state = _encoder_state(files, _MARKERS[kind])
    # The weights alone: rotary frequencies in bf16 would be off by a radian at 30 s.
    _fill(tower, {key: value.to(dtype) for key, value in state.items()}, source)
    return _wrap(tower.to(device), padding)


def random_encoder(
    architecture: Mapping[str, Any],
    *,
    padding: str,
    attn_implementation: str,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> AudioEncoder:
    """Build an encoder with random weights, the same for the same seed; downloads nothing."""
    config = _encoder_config(dict(architecture))
    config._attn_implementation = attn_implementation
    make = _tower_class(config.model_type)
    tower = random_module(lambda: make(config), seed, dtype, device)
    return _wrap(tower, padding)


def _wrap(tower: PreTrainedModel, padding: str) -> AudioEncoder:
    encoder = GlmEncoder if isinstance(tower, GlmAsrEncoder) else WhisperStyleEncoder
    module = encoder(tower, padding)
    module.requires_grad_(False)
    return module.eval()


def _tower_class(kind: str) -> type[PreTrainedModel]:
    if kind in _GLM:
        return GlmAsrEncoder
    if kind == "whisper":
        return WhisperEncoder
    raise ModelError(f"model.encoder.architecture: model_type '{kind}' is not glmasr or whisper")


def _encoder_config(raw: dict[str, Any]) -> PreTrainedConfig:
    """The encoder's own configuration, wherever the checkpoint's config.json keeps it."""
    raw = dict(raw)
    kind = raw.pop("model_type", "")
    if kind == "glmasr":
        return GlmAsrEncoderConfig(**raw.get("audio_config", {}))
    if kind == "glmasr_encoder":
        return GlmAsrEncoderConfig(**raw)
    return AutoConfig.for_model(kind, **raw)


def _encoder_state(files: CheckpointFiles, marker: str) -> dict[str, Tensor]:
    """The encoder's tensors; those streamed from the hub are kept in a cache of our own."""
    if Path(files.where).is_dir():
        return read_matching(files, marker)
    kept = _cache_file(files)
    if kept is not None and kept.is_file():
        return load_file(kept)
    log.info("reading the tensors under '%s' of %s from the hub", marker, files.where)
    state = read_matching(files, marker)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        save_file(state, part)
        part.replace(kept)
    return state


def _cache_file(files: CheckpointFiles) -> Path | None:
    """Where the extracted encoder is kept, by commit; None where the commit cannot be known."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HOME, HF_HUB_OFFLINE

    home = Path(HF_HOME) / "tiny_audio" / files.where.replace("/", "--")
    latest = home / f"{files.revision or 'main'}.json"  # the commit that was last seen
    if HF_HUB_OFFLINE:
        if not latest.is_file():
            return None
        seen: str = json.loads(latest.read_text())["commit"]
        return home / seen / "encoder.safetensors"
    commit = HfApi().model_info(files.where, revision=files.revision).sha
    if commit is None:
        return None
    home.mkdir(parents=True, exist_ok=True)
    latest.write_text(json.dumps({"commit": commit}))
    return home / commit / "encoder.safetensors"


def _fill(tower: PreTrainedModel, state: dict[str, Tensor], source: str) -> None:
    """Give a meta-device tower its tensors; every one must be there, none may be left over."""
    expected = {key: value.shape for key, value in tower.state_dict().items()}
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    wrong = sorted(k for k in expected.keys() & state.keys() if state[k].shape != expected[k])
    for what, keys in (("misses", missing), ("has unknown", extra), ("has misshapen", wrong)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ModelError(f"{source}: the encoder {what} tensors {', '.join(keys[:3])}{more}")
    rotary = getattr(tower, "rotary_emb", None)
    if rotary is not None:  # computed, not stored: made again off the meta device
        tower.rotary_emb = type(rotary)(tower.config)
    tower.load_state_dict(state, strict=True, assign=True)
