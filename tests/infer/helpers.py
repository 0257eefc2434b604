"""A model whose text says something about its audio, and audio for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from tests.model.helpers import CPU, model_config
from tiny_audio.config import Config, ModelConfig
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import save_checkpoint
from tiny_audio.model.speech import SpeechModel


def restless_config() -> ModelConfig:
    """The tiny pair with a short window, so that ten seconds make a long recording."""
    config = model_config()
    config.encoder.window_seconds = 8.0
    return config


def restless_model() -> SpeechModel:
    """With larger weights: at its own, every clip gets the same few letters."""
    model = build_model(restless_config(), device=CPU)
    with torch.no_grad():
        for name, weight in model.causal_lm.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.mul_(8.0)
        for name, weight in model.projector.named_parameters():
            if "norm_2" in name:
                weight.mul_(30.0)
    model.decoder_changed = True  # a checkpoint of it holds the decoder
    return model


def save_restless(model: SpeechModel, folder: Path) -> Path:
    """The model as a checkpoint."""
    config = Config(model=restless_config(), output_dir=str(folder))
    save_checkpoint(model, folder, config=config, metadata={})
    return folder


def tones(seconds: list[float], seed: int = 0) -> list[np.ndarray]:
    """Noise that swells and fades, each clip [S] at a pace of its own; float32, 16 kHz."""
    rng = np.random.default_rng(seed)
    clips = []
    for number, length in enumerate(seconds, 2):
        time = np.arange(int(length * 16_000)) / 16_000
        swell = 0.1 * np.sin(time * 7 * number)
        clips.append((rng.normal(size=len(time)) * swell).astype(np.float32))
    return clips


def write_wav(path: Path, clip: np.ndarray, rate: int = 16_000) -> str:
    """The clip as a file; returns its path."""
    soundfile.write(path, clip, rate, subtype="FLOAT")
    return str(path)
