"""Small random checkpoints in the layout of the published ones."""

import json
import shutil
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tests.hub.client import GLM, QWEN, WHISPER
from tests.hub.datasets import SETS
from tests.hub.server import Hub
from tests.text.conftest import make_tokenizer

MELS = 128
ENDS = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def glm_asr(folder: Path) -> None:
    """GLM-ASR-Nano-2512: an audio tower in one file with a language model."""
    tokenizer = make_tokenizer(None, ("<|endoftext|>", "<|pad|>", "<|user|>"), **ENDS)
    end, pad, user = range(256, 259)
    config = GlmAsrConfig(
        audio_config={**SIZES, "num_attention_heads": 4, "num_mel_bins": MELS},
        text_config={**SIZES, "num_attention_heads": 2, "eos_token_id": [end, user]},
        audio_token_id=pad,
    )
    torch.manual_seed(0)
    model = GlmAsrForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=[end, user], pad_token_id=end)
    GlmAsrProcessor(WhisperFeatureExtractor(feature_size=MELS), tokenizer).save_pretrained(folder)
    _save(model, folder, license="mit")


def qwen3(folder: Path, tokenizer: Path) -> None:
    """Qwen3-0.6B, with its own tokenizer (a folder of the shared data) and whole vocabulary."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=151_643,
        eos_token_id=151_645,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    ends = {"eos_token_id": [151_645, 151_643], "pad_token_id": 151_643}
    model.generation_config = GenerationConfig(**ends, do_sample=True, temperature=0.6, top_k=20)
    _save(model, folder, license="apache-2.0")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


def whisper(folder: Path) -> None:
    """whisper-large-v3-turbo, with weights in other formats beside it that nobody may fetch."""
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=MELS,
    )
    torch.manual_seed(0)
    _save(WhisperForConditionalGeneration(config), folder, license="mit")
    WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)
    make_tokenizer(None, ("<|endoftext|>",), **ENDS).save_pretrained(folder)
    shards = [f"model.fp32-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"metadata": {}, "weight_map": dict(zip(("a", "b"), shards, strict=True))}
    (folder / "model.safetensors.index.fp32.json").write_text(json.dumps(index))
    for name in (*shards, "pytorch_model.bin", "flax_model.msgpack"):
        (folder / name).write_bytes(bytes(100_000))


def _save(model: PreTrainedModel, folder: Path, license: str) -> None:
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n\n# A small stand-in\n")


def stock(hub: Hub, folder: Path, tokenizer: Path | None) -> None:
    """Fill `hub` by the published ids; `folder` holds the checkpoints. No tokenizer: no Qwen3."""
    glm_asr(folder / GLM)
    whisper(folder / WHISPER)
    if tokenizer is not None:
        qwen3(folder / QWEN, tokenizer)
    for place in folder.glob("*/*"):
        files = {path.name: path for path in place.iterdir()}
        hub.create(place.relative_to(folder).as_posix(), files)
    for repo_id, layout in SETS.items():
        hub.create(repo_id, layout.files(), repo_type="dataset", gated=layout.gated)
