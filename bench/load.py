"""What is measured on: the pair, and utterances of the same lengths every time.

B utterances, S samples, M mel bands, L mel frames.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import WhisperFeatureExtractor

from tiny_audio.compose import compose
from tiny_audio.config import ModelConfig
from tiny_audio.data.batching import collate
from tiny_audio.data.records import Utterance
from tiny_audio.model.batch import Batch
from tiny_audio.model.build import build_model
from tiny_audio.model.speech import SpeechModel

TOKENS_PER_SECOND = 3.0  # of transcript: English speech in Qwen's vocabulary
WINDOW = 30.0  # seconds that the stock processor pads to


def load_pair(name: str, device: torch.device, *, random: bool, dtype: str = "auto") -> SpeechModel:
    """Build ``small`` (beside this file) or a pair of the package."""
    own: Any = Path(__file__).with_name(f"{name}.yaml")
    if own.is_file():
        own = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(own))
        config: Any = OmegaConf.to_object(own)
    else:
        config = compose([f"model={name}"]).model
    config.random_weights |= random
    config.dtype = dtype
    return build_model(config, device=device)


def describe(model: SpeechModel) -> str:
    """Sizes of the parts."""
    parts = {"encoder": model.encoder, "projector": model.projector, "decoder": model.causal_lm}
    sizes = [f"{k} {sum(p.numel() for p in m.parameters()) / 1e6:.0f} M" for k, m in parts.items()]
    dtype = str(next(model.encoder.parameters()).dtype).removeprefix("torch.")
    return f"{', '.join(sizes)} parameters, frozen weights in {dtype}"


def durations(kind: str, count: int, seed: int = 0) -> list[float]:
    """Seconds of each utterance: ``speech`` as in LibriSpeech (2 to 20, mean 12) or ``commands``
    (1 to 5, mean 2.6)."""
    low, high, a, b = {"speech": (2, 20, 2.2, 1.8), "commands": (1, 5, 2.0, 3.0)}[kind]
    drawn = np.random.default_rng(seed).beta(a, b, count)
    return [float(low + (high - low) * x) for x in drawn]


def utterances(seconds: Sequence[float], seed: int = 0) -> list[Utterance]:
    """Noise with a random text. All of them are stretches of one recording: no memory each."""
    rng = np.random.default_rng(seed)
    noise = (0.1 * rng.standard_normal(60 * 16_000)).astype(np.float32)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    made = []
    for number, length in enumerate(seconds):
        samples = int(length * 16_000)
        start = int(rng.integers(0, len(noise) - samples))
        text = "".join(rng.choice(letters, text_tokens(length) - 1))  # and the end token
        made.append(Utterance(str(number), noise[start : start + samples], text, "bench"))
    return made


def spoken_tokens(utterance: Utterance) -> int:
    """Tokens that every way of transcribing writes for a recording."""
    return math.ceil(utterance.seconds * TOKENS_PER_SECOND)


def text_tokens(seconds: float) -> int:
    """Tokens of a transcript, its end token included (a byte is a token in random pairs)."""
    return round(TOKENS_PER_SECOND * seconds) + 1


@dataclass
class Load:
    """A batch, and its log-mel where that is made on the host."""

    batch: Batch
    features: Tensor | None = None  # [B, M, L]

    def to(self, device: torch.device) -> Load:
        """The same on a device."""
        features = self.features
        features = None if features is None else features.to(device, non_blocking=True)
        return Load(self.batch.to(device), features)

    def pin_memory(self) -> Load:
        """The same in page-locked memory; DataLoader calls this."""
        features = self.features
        features = None if features is None else features.pin_memory()
        return Load(self.batch.pin_memory(), features)


class Collator:
    """Utterances to a Load, as a worker process makes it.

    Args:
        model: whose prompt and lengths are used.
        host_mel: None: the device makes the log-mel; ``max_length`` or ``longest``: transformers'
            feature extractor makes it here, padded to 30 s or to the longest.
        labels: training.
    """

    def __init__(self, model: SpeechModel, host_mel: str | None, *, labels: bool) -> None:
        self.prompt, self.audio_tokens = model.prompt, model.audio_tokens
        self.host_mel, self.labels = host_mel, labels
        self.extractor = extractor(model)

    def __call__(self, members: Sequence[Utterance]) -> Load:
        """Collate, with or without the log-mel."""
        batch = collate(members, self.prompt, self.audio_tokens, with_labels=self.labels)
        if self.host_mel is None:
            return Load(batch)
        features = host_mel(self.extractor, [u.waveform for u in members], self.host_mel)
        return Load(replace(batch, waveform=batch.waveform[:, :0]), features)


def extractor(model: SpeechModel) -> WhisperFeatureExtractor:
    """The stock feature extractor of the model's encoder."""
    f = model.features
    return WhisperFeatureExtractor(feature_size=f.n_mels, n_fft=f.n_fft, hop_length=f.hop)


def host_mel(stock: WhisperFeatureExtractor, waveforms: Sequence[Any], padding: str) -> Tensor:
    """[B, M, L] as transformers' processor makes it, padded to its window or to the longest."""
    out: Any = stock(list(waveforms), sampling_rate=16_000, padding=padding, return_tensors="pt")
    features: Tensor = out.input_features
    return features


def feed(
    batches: list[list[Utterance]],
    collator: Callable[[Sequence[Utterance]], Load],
    device: torch.device,
) -> Iterator[Load]:
    """Collated batches; on CUDA made ahead by worker processes, in page-locked memory."""
    if device.type != "cuda":
        return map(collator, batches)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or it warns in every forked worker
    loader: Any = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=collator,
        num_workers=max(1, min(8, len(os.sched_getaffinity(0)) // 2)),
        prefetch_factor=2,
        pin_memory=True,
        multiprocessing_context="fork",
    )
    return iter(loader)
