"""From a configuration to a model: the one place where settings become modules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tiny_audio.audio.features import LogMel, SpecAugment
from tiny_audio.config import ModelConfig
from tiny_audio.errors import ConfigError, ModelError, first_line
from tiny_audio.hub import SMALL_FILES, commit_of, snapshot
from tiny_audio.model.decoder import embedding_rms, embedding_table, load_decoder, random_decoder
from tiny_audio.model.encoder import ATTENTION, AudioEncoder, load_encoder, random_encoder
from tiny_audio.model.projectors import PROJECTORS, build_projector
from tiny_audio.model.speech import SpeechModel
from tiny_audio.model.weights import random_module
from tiny_audio.text.prompt import Prompt

ASSETS = Path(__file__).parent.parent / "assets"
_BUNDLED = "bundled:"  # an id under assets/, wherever the package is installed
_RANDOM_SEED = 0  # of random bases: they must be the same in the process that loads a checkpoint
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build_model(
    cfg: ModelConfig,
    *,
    device: torch.device,
    spec_augment: SpecAugment | None = None,
    seed: int = 0,
) -> SpeechModel:
    """Load a frozen encoder and decoder and join them with a fresh projector, random by ``seed``.
    Revisions in ``cfg`` become the commits that were loaded, so that a checkpoint always finds the
    same ones. Raises HubError, ModelError (a part does not load or fit) or ConfigError."""
    if cfg.attn_implementation not in ATTENTION:
        known = " or ".join(ATTENTION)
        raise ConfigError(
            f"model.attn_implementation: '{cfg.attn_implementation}' is unknown; use {known}"
        )
    if device.type == "cuda":  # it plans anew for every shape, and speech has new ones all the time
        torch.backends.cuda.enable_cudnn_sdp(False)
    encoder, lm, tokenizer = _load_bases(cfg, device)
    n_mels = cfg.features.n_mels
    if encoder.n_mels != n_mels:
        raise ModelError(
            f"model.features.n_mels is {n_mels}, but the encoder {cfg.encoder.id} reads "
            f"{encoder.n_mels} mel bands; set model.features.n_mels={encoder.n_mels}"
        )
    kind = cfg.projector.type
    options = asdict(getattr(cfg.projector, kind)) if kind in PROJECTORS else {}
    widths = encoder.width, embedding_table(lm).shape[1]
    rms = embedding_rms(lm)
    projector = random_module(  # it learns, so its weights keep full precision
        lambda: build_projector(kind, *widths, rms, options), seed, torch.float32, device
    )
    dec_cfg = cfg.decoder
    model = SpeechModel(
        features=LogMel(n_mels, cfg.features.n_fft, cfg.features.hop).to(device),
        encoder=encoder,
        projector=projector,
        decoder=lm,
        tokenizer=tokenizer,
        prompt=Prompt.from_tokenizer(
            tokenizer, dec_cfg.instruction, placeholder=dec_cfg.placeholder
        ),
        spec_augment=spec_augment,
        window_seconds=cfg.encoder.window_seconds,
    )
    model.identity = {
        "pair": cfg.name,
        "encoder.id": cfg.encoder.id,
        "encoder.padding": cfg.encoder.padding,
        "encoder.fingerprint": _fingerprint(encoder),
        "features": asdict(cfg.features),
        "decoder.id": dec_cfg.id,
        "decoder.instruction": dec_cfg.instruction,
        "decoder.fingerprint": _fingerprint(lm),
        "projector.type": kind,
        "projector.sizes": options,
    }
    return model.eval()


def _load_bases(
    cfg: ModelConfig, device: torch.device
) -> tuple[AudioEncoder, PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen encoder, the frozen decoder and its tokenizer."""
    common: dict[str, Any] = {
        "attn_implementation": cfg.attn_implementation,
        "dtype": pick_dtype(cfg.dtype, device),
        "device": device,
    }
    enc_cfg, dec_cfg = cfg.encoder, cfg.decoder
    if cfg.random_weights:
        for name, part in (("encoder", enc_cfg), ("decoder", dec_cfg)):
            if "model_type" not in part.architecture:
                raise ConfigError(
                    f"model.random_weights=true needs model.{name}.architecture with a model_type "
                    "and sizes; this pair has none"
                )
        common["seed"] = _RANDOM_SEED
        encoder = random_encoder(enc_cfg.architecture, padding=enc_cfg.padding, **common)
        lm, tokenizer = random_decoder(dec_cfg.architecture, **common)
    else:
        for part in (enc_cfg, dec_cfg):
            folder = snapshot(_resolve(part.id), part.revision, files=SMALL_FILES)
            part.revision = commit_of(folder) or part.revision
        encoder = load_encoder(
            _resolve(enc_cfg.id), revision=enc_cfg.revision, padding=enc_cfg.padding, **common
        )
        lm, tokenizer = load_decoder(_resolve(dec_cfg.id), revision=dec_cfg.revision, **common)
    return encoder, lm, tokenizer


def _fingerprint(module: nn.Module) -> str:
    """Hash of the first 4,096 values of the first, middle and last weight, rounded to bf16 so that
    it is the same in every compute dtype."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    if weights[0].is_meta:
        return "none"  # a model without numbers
    digest = hashlib.sha256()
    for weight in (weights[0], weights[len(weights) // 2], weights[-1]):
        values = weight.detach().flatten()[:4096].cpu().bfloat16()
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _resolve(name: str) -> str:
    """Turn an id under the package's assets into a folder; leave other ids as they are."""
    if not name.startswith(_BUNDLED):
        return name
    folder = ASSETS / name.removeprefix(_BUNDLED)
    if not folder.is_dir():
        raise ModelError(f"{name}: this installation lacks {folder}; install tiny-audio again")
    return str(folder)


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` prefers CUDA, then MPS, then CPU. Raises ConfigError."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, there in here.items() if there), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: '{name}' is unknown; use auto, cpu, cuda or mps") from None
    if not here.get(device.type, True):
        raise ConfigError(f"device: this machine has no '{device.type}'; use auto or cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The format of the frozen weights; ``auto`` is bf16 on CUDA and fp32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise ConfigError(f"model.dtype: '{name}' is unknown; use auto or one of {list(_DTYPES)}")
    return _DTYPES[name]


# --------------------------------------------------------------------------- without the weights


@dataclass(frozen=True)
class Lengths:
    """What data must know of a model."""

    name: str
    audio_tokens: Callable[[int], int]  # of so many samples
    prompt: Prompt  # with the decoder's own tokenizer
    context: int | None  # positions that the decoder has, None where its configuration is silent


def lengths_of(cfg: ModelConfig, tokenizer: Path | None = None) -> Lengths:
    """The lengths of a pair; of a decoder from the hub only the tokenizer is fetched.
    ``tokenizer``: a folder that holds it, as a checkpoint does. Raises HubError or ModelError."""
    wanted_random, dec_cfg = cfg.random_weights, cfg.decoder
    model = skeleton(cfg)
    prompt = model.prompt
    if cfg.random_weights and not wanted_random:  # then the tokenizer is a stand-in as well
        source = str(tokenizer or _resolve(dec_cfg.id))
        folder = snapshot(source, dec_cfg.revision, files=SMALL_FILES)
        try:
            loaded = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"{source}: its tokenizer cannot be loaded, so there are no label tokens to count: "
                f"{first_line(error)} Set model.decoder.id to a folder that has it, or use --model "
                "nano."
            ) from None
        prompt = Prompt.from_tokenizer(loaded, dec_cfg.instruction, placeholder=dec_cfg.placeholder)
    context = getattr(model.causal_lm.config, "max_position_embeddings", None)
    return Lengths(cfg.name, model.audio_tokens, prompt, context)


def skeleton(cfg: ModelConfig) -> SpeechModel:
    """The architecture alone, as large as the real one but without a number in it. Pairs that are
    on this machine anyway are built whole."""
    if cfg.encoder.id.startswith(_BUNDLED) or (cfg.random_weights and cfg.name == "tiny"):
        return build_model(cfg, device=torch.device("cpu"))
    cfg.random_weights = True
    cfg.dtype = "bfloat16"
    return build_model(cfg, device=torch.device("meta"))
