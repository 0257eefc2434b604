"""From a configuration to a model: the one place where settings become modules."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny_audio.audio.features import LogMel
from tiny_audio.config import ModelConfig
from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.hub import SMALL_FILES, commit_of, snapshot
from tiny_audio.model.decoder import embedding_rms, embedding_table, load_decoder, random_decoder
from tiny_audio.model.device import pick_dtype
from tiny_audio.model.encoder import AudioEncoder
from tiny_audio.model.encoder_loading import load_encoder, random_encoder
from tiny_audio.model.packing import PACKED, can_pack
from tiny_audio.model.plain_encoder import PlainEncoder
from tiny_audio.model.projectors import PROJECTORS, build_projector
from tiny_audio.model.random_init import random_module
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.prompt import Prompt

if TYPE_CHECKING:
    from tiny_audio.audio.features import SpecAugment

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).parent.parent / "assets"
_BUNDLED = "bundled:"  # an id under assets/, wherever the package is installed
_RANDOM_SEED = 0  # of random bases: they must be the same in the process that loads a checkpoint
_UNPACKED = (
    "model.attn_implementation=packed: %s gives other numbers so; it keeps its batches padded."
)
_ATTENTION = ("sdpa", "eager", "flash_attention_2", PACKED)


def build_model(
    cfg: ModelConfig,
    *,
    device: torch.device,
    spec_augment: SpecAugment | None = None,
    seed: int = 0,
) -> SpeechModel:
    """Load the frozen encoder and decoder of a pair and join them with a fresh projector.

    Args:
        cfg: the model's settings. The revisions of parts from the hub become the commits that
            were loaded, so that a checkpoint with these settings always finds the same ones.
        device: where everything goes.
        spec_augment: masks for training.
        seed: of the projector's first weights.

    Raises:
        HubError: a part cannot be fetched.
        ModelError: a part cannot be loaded or does not fit.
        ConfigError: a setting has no such value.
    """
    if cfg.attn_implementation not in _ATTENTION:
        raise ConfigError(
            f"model.attn_implementation: '{cfg.attn_implementation}' is unknown; use one of "
            f"{list(_ATTENTION)}"
        )
    if device.type == "cuda":  # it plans anew for every shape, and speech has new ones all the time
        torch.backends.cuda.enable_cudnn_sdp(False)
    dtype = pick_dtype(cfg.dtype, device)
    if not cfg.random_weights:
        for part in (cfg.encoder, cfg.decoder):
            folder = snapshot(resolve_id(part.id), part.revision, files=SMALL_FILES)
            part.revision = commit_of(folder) or part.revision
    encoder = _encoder(cfg, dtype, device)
    lm, tokenizer = _decoder(cfg, dtype, device)
    if cfg.attn_implementation == PACKED and not can_pack(lm):
        lm.set_attn_implementation("sdpa")
        logger.warning(_UNPACKED, cfg.decoder.id)
    n_mels = cfg.features.n_mels
    if isinstance(encoder, AudioEncoder) and encoder.n_mels != n_mels:
        raise ModelError(
            f"model.features.n_mels is {n_mels}, but the encoder {cfg.encoder.id} reads "
            f"{encoder.n_mels} mel bands; set model.features.n_mels={encoder.n_mels}"
        )
    projector = _projector(cfg, encoder.width, lm, device, seed)
    model = SpeechModel(
        features=LogMel(n_mels, cfg.features.n_fft, cfg.features.hop).to(device),
        encoder=encoder,
        projector=projector,
        decoder=lm,
        tokenizer=tokenizer,
        prompt=Prompt.from_tokenizer(
            tokenizer, cfg.decoder.instruction, placeholder=cfg.decoder.placeholder
        ),
        spec_augment=spec_augment,
        window_seconds=cfg.encoder.window_seconds,
    )
    model.identity = identity(cfg, encoder, lm)
    return model.eval()


def with_projector(model: SpeechModel, cfg: ModelConfig, *, seed: int) -> SpeechModel:
    """Another model of the same encoder and decoder, shared, with a fresh projector of its own."""
    other = SpeechModel(
        features=model.features,
        encoder=model.encoder,
        projector=_projector(cfg, model.encoder.width, model.causal_lm, model.device, seed),
        decoder=model.causal_lm,
        tokenizer=model.tokenizer,
        prompt=model.prompt,
        spec_augment=model.spec_augment,
        window_seconds=model.window_seconds,
    )
    other.augment_generator = model.augment_generator
    other.identity = identity(cfg, model.encoder, model.causal_lm)
    return other.eval()


def identity(cfg: ModelConfig, encoder: nn.Module, lm: PreTrainedModel) -> dict[str, Any]:
    """What a projector belongs to: two models agree where all of these values agree.

    The fingerprints are hashes of some frozen weights, rounded to bf16 so that they are the same
    in every compute dtype.
    """
    kind = cfg.projector.type
    return {
        "pair": cfg.name,
        "encoder.id": cfg.encoder.id,
        "encoder.padding": cfg.encoder.padding,
        "encoder.fingerprint": _fingerprint(encoder),
        "features": asdict(cfg.features),
        "decoder.id": cfg.decoder.id,
        "decoder.instruction": cfg.decoder.instruction,
        "decoder.fingerprint": _fingerprint(lm),
        "projector.type": kind,
        "projector.sizes": asdict(getattr(cfg.projector, kind)),
    }


def resolve_id(name: str) -> str:
    """Turn an id under the package's assets into a folder; leave other ids as they are."""
    if not name.startswith(_BUNDLED):
        return name
    folder = ASSETS / name.removeprefix(_BUNDLED)
    if not folder.is_dir():
        raise ModelError(f"{name}: this installation lacks {folder}; install tiny-audio again")
    return str(folder)


def _encoder(
    cfg: ModelConfig, dtype: torch.dtype, device: torch.device
) -> AudioEncoder | PlainEncoder:
    part = cfg.encoder
    common: dict[str, Any] = {
        "padding": part.padding,
        "attn_implementation": cfg.attn_implementation,
        "dtype": dtype,
        "device": device,
    }
    if cfg.random_weights:
        _need_architecture("encoder", part.architecture)
        return random_encoder(part.architecture, seed=_RANDOM_SEED, **common)
    return load_encoder(resolve_id(part.id), revision=part.revision, **common)


def _decoder(
    cfg: ModelConfig, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    part = cfg.decoder
    common: dict[str, Any] = {
        "attn_implementation": cfg.attn_implementation,
        "dtype": dtype,
        "device": device,
    }
    if cfg.random_weights:
        _need_architecture("decoder", part.architecture)
        return random_decoder(part.architecture, seed=_RANDOM_SEED, **common)
    return load_decoder(resolve_id(part.id), revision=part.revision, **common)


def _need_architecture(part: str, architecture: dict[str, Any]) -> None:
    if "model_type" not in architecture:
        raise ConfigError(
            f"model.random_weights=true needs model.{part}.architecture with a model_type and "
            "sizes; this pair has none"
        )


def _projector(
    cfg: ModelConfig, width: int, lm: PreTrainedModel, device: torch.device, seed: int
) -> Any:
    """The projector in fp32: it learns, so its weights keep full precision."""
    kind = cfg.projector.type
    options = asdict(getattr(cfg.projector, kind)) if kind in PROJECTORS else {}
    rms = embedding_rms(lm)
    wide = embedding_table(lm).shape[1]
    return random_module(
        lambda: build_projector(kind, width, wide, rms, options), seed, torch.float32, device
    )


def _fingerprint(module: nn.Module) -> str:
    """Hash of the first 4,096 values of the first, middle and last weight, as bf16."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    if weights[0].is_meta:
        return "none"  # a model without numbers
    digest = hashlib.sha256()
    for weight in (weights[0], weights[len(weights) // 2], weights[-1]):
        values = weight.detach().flatten()[:4096].cpu().bfloat16()
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
