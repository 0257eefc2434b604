"""Small models and batches for the tests of the model."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

import tiny_audio
from tiny_audio.config import RENAMED, ModelConfig
from tiny_audio.data.batching import collate
from tiny_audio.data.records import Utterance
from tiny_audio.model.batch import Batch
from tiny_audio.model.build import build_model
from tiny_audio.model.lora import add_lora
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


def write_former_names(path: Path) -> None:
    """Rewrite a config.yaml as it was before settings were renamed and some removed."""
    config = OmegaConf.load(path)
    values = {old: OmegaConf.select(config, new) for old, new in RENAMED.items()}
    for new in RENAMED.values():
        section, _, name = new.rpartition(".")
        OmegaConf.select(config, section).pop(name)
    for old, value in values.items():
        OmegaConf.update(config, old, value)
    config.training.betas = list(config.training.betas.values())
    config.training.race = []  # a setting that is gone
    OmegaConf.save(config, path)


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
    pairs = zip(clips, texts or [""] * len(clips), strict=True)
    members = [Utterance(str(i), clip.numpy(), text, "") for i, (clip, text) in enumerate(pairs)]
    return collate(members, model.prompt, model.audio_tokens, with_labels=texts is not None)


def with_lora(model: SpeechModel, *targets: str, std: float = 0.0, r: int = 2) -> SpeechModel:
    """Add adapters to a model's decoder, which do something where ``std`` is above 0."""
    model.decoder = add_lora(
        model.decoder, r=r, lora_alpha=2 * r, lora_dropout=0.0, target_modules=targets
    )
    for name, parameter in model.decoder.named_parameters():
        if std and "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return model
