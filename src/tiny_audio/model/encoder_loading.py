"""From a hub id or folder to a frozen encoder: GLM-ASR's tower, Whisper's half, or any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, GlmAsrEncoderConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.glmasr.modeling_glmasr import GlmAsrEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tiny_audio.errors import ModelError
from tiny_audio.hub import MODEL_FILES, SMALL_FILES, snapshot
from tiny_audio.model.encoder import AudioEncoder, GlmEncoder, WhisperStyleEncoder
from tiny_audio.model.plain_encoder import PlainEncoder
from tiny_audio.model.random_init import random_module
from tiny_audio.model.weights import find_tensors, read_matching

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
    folder = snapshot(source, revision, files=SMALL_FILES)
    raw = _read_config(folder, source)
    kind = raw.get("model_type", "")
    if kind not in _MARKERS:
        folder = snapshot(source, revision, files=MODEL_FILES)
        return PlainEncoder.load(folder, source, dtype=dtype, device=device)
    config = _encoder_config(raw)
    config._attn_implementation = attn_implementation
    with torch.device("meta"):
        tower: Any = _tower_class(kind)(config)
    marker = _MARKERS[kind]
    state = read_matching(find_tensors(source, revision, marker), marker, source)
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


def _read_config(folder: Path, source: str) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{source}: has no file 'config.json'; it is no model") from None
    except ValueError as error:
        raise ModelError(f"{path}: is damaged ({error}); delete it and run again") from None
    return dict(values)


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
