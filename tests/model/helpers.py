"""Small models and batches for the tests of the model."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf

import tiny_audio
from tiny_audio.config import ModelConfig
from tiny_audio.model.batch import IGNORE, Batch
from tiny_audio.model.build import build_model
from tiny_audio.model.speech import SpeechModel

CONF = Path(tiny_audio.__file__).parent / "conf" / "model"
CPU = torch.device("cpu")

WHISPER = {
    "model_type": "whisper",
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}


def model_config(name: str = "tiny") -> ModelConfig:
    """The settings of a pair, without Hydra."""
    raw = OmegaConf.load(CONF / f"{name}.yaml")
    raw.pop("defaults", None)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), raw))
    assert isinstance(config, ModelConfig)
    return config


def tiny_model(**changes: object) -> SpeechModel:
    """The tiny pair; ``changes`` are settings of the model by name."""
    config = model_config()
    for key, value in changes.items():
        setattr(config, key, value)
    return build_model(config, device=CPU)


def noise(seconds: list[float], seed: int = 0) -> list[torch.Tensor]:
    """Clips of quiet noise, each of its own loudness."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(int(s * 16_000), generator=generator) * 0.05 * (i + 1)
        for i, s in enumerate(seconds)
    ]


def make_batch(
    model: SpeechModel, clips: list[torch.Tensor], texts: list[str] | None = None
) -> Batch:
    """Right-padded with labels where there are texts, else left-padded for generation."""
    rows = []
    for i, clip in enumerate(clips):
        count = model.audio_tokens(len(clip))
        ids, learned_from = model.prompt.build(count), None
        if texts is not None:
            ids, learned_from = model.prompt.training(count, texts[i])
        first, last = model.prompt.audio_span(count)
        audio = [first <= place < last for place in range(len(ids))]
        labels = [IGNORE] * len(ids)
        if learned_from is not None:
            labels[learned_from:] = ids[learned_from:]
        rows.append((ids, audio, labels))
    width = max(len(ids) for ids, _, _ in rows)
    lengths = torch.tensor([len(c) for c in clips])
    waveform = torch.zeros(len(clips), int(lengths.max()))
    for i, clip in enumerate(clips):
        waveform[i, : len(clip)] = clip

    def pad(values: list[list[int]], fill: int) -> torch.Tensor:
        padding = [[fill] * (width - len(v)) for v in values]
        both = zip(values, padding, strict=True)
        return torch.tensor([v + p if texts is not None else p + v for v, p in both])

    return Batch(
        waveform=waveform,
        waveform_lengths=lengths,
        input_ids=pad([r[0] for r in rows], model.prompt.end_id),
        attention_mask=pad([[1] * len(r[0]) for r in rows], 0),
        audio_mask=pad([[int(a) for a in r[1]] for r in rows], 0).bool(),
        labels=pad([r[2] for r in rows], IGNORE) if texts is not None else None,
        ids=[str(i) for i in range(len(clips))],
        texts=texts or [],
    )
