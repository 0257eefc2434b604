"""Small random checkpoints in the layout of the published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

MELS = 128
GLM, QWEN, WHISPER = (
    "zai-org/GLM-ASR-Nano-2512",
    "Qwen/Qwen3-0.6B",
    "openai/whisper-large-v3-turbo",
)
_GLM_SPECIAL = (
    "<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|begin_of_audio|>", "<|end_of_audio|>",
)  # fmt: skip
_GLM_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{% if part['type'] == 'audio' %}"
    "<|begin_of_audio|><|pad|><|end_of_audio|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def glm_asr(folder: Path, nested: bool, shards: bool = False) -> None:
    """GLM-ASR-Nano-2512: its tower under `model.audio_tower.` (`nested`) or `audio_tower.`."""
    tokenizer = byte_tokenizer(_GLM_SPECIAL, eos="<|endoftext|>", pad="<|endoftext|>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    audio = {**sizes, "num_attention_heads": 4, "num_mel_bins": MELS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|user|>")]
    config = GlmAsrConfig(
        audio_config=audio,
        text_config={**sizes, **heads, "eos_token_id": ends},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
    )
    torch.manual_seed(0)
    model = GlmAsrForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[0])
    features = WhisperFeatureExtractor(feature_size=MELS)
    processor = GlmAsrProcessor(features, tokenizer, chat_template=_GLM_TEMPLATE)
    processor.save_pretrained(folder)
    _save(model, folder, shards=shards)
    _renest(folder, nested)
    _card(folder, license="mit", library_name="transformers", tags=["audio"])


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
    model.generation_config = GenerationConfig(
        bos_token_id=151_643,
        pad_token_id=151_643,
        eos_token_id=[151_645, 151_643],
        do_sample=True,
        temperature=0.6,
        top_k=20,
        top_p=0.95,
    )
    _save(model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    model_part = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model_part["vocab"], ensure_ascii=False))
    pairs = [m if isinstance(m, str) else " ".join(m) for m in model_part["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    _card(folder, license="apache-2.0", library_name="transformers")


def whisper(folder: Path) -> None:
    """whisper-large-v3-turbo, with the weights in the other formats that lie beside them, too.

    None of `model.fp32-*`, `pytorch_model.bin` and `flax_model.msgpack` is ever to be downloaded.
    """
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>"]
    special += ["<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer = byte_tokenizer(special, eos="<|endoftext|>", pad="<|endoftext|>")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = WhisperConfig(
        vocab_size=51_866,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=MELS,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        **heads,
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
    )
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    names = ["model.fp32-00001-of-00002.safetensors", "model.fp32-00002-of-00002.safetensors"]
    halves = [sorted(state)[0::2], sorted(state)[1::2]]
    for name, keys in zip(names, halves, strict=True):
        save_file({key: state[key].float() for key in keys}, folder / name)
    table = {key: name for name, keys in zip(names, halves, strict=True) for key in keys}
    index = json.dumps({"metadata": {}, "weight_map": table})
    (folder / "model.safetensors.index.fp32.json").write_text(index)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "flax_model.msgpack").write_bytes(bytes(100_000))
    (folder / "normalizer.json").write_text("{}")
    _card(folder, license="mit", library_name="transformers", tags=["audio"])


def byte_tokenizer(
    special: tuple[str, ...] | list[str], eos: str, pad: str
) -> PreTrainedTokenizerFast:
    """One token for each byte, then the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=eos, pad_token=pad)


def _save(model: PreTrainedModel, folder: Path, *, shards: bool = False) -> None:
    """Save in bf16, in one file or in several."""
    limit = "500KB" if shards else "5GB"
    model.to(torch.bfloat16).eval().save_pretrained(folder, max_shard_size=limit)


def _renest(folder: Path, nested: bool) -> None:
    """Let the tensors lie under `model.` or at the top level, but for the head."""

    def renamed(key: str) -> str:
        plain = key.removeprefix("model.")
        return f"model.{plain}" if nested and not plain.startswith("lm_head.") else plain

    for file in folder.glob("*.safetensors"):
        state = {renamed(key): value for key, value in load_file(file).items()}
        save_file(state, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        table = json.loads(index.read_text())
        table["weight_map"] = {renamed(key): file for key, file in table["weight_map"].items()}
        index.write_text(json.dumps(table, indent=2))


def _card(folder: Path, **fields: object) -> None:
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", "", "# A small stand-in"]))


def files(folder: Path) -> dict[str, Path]:
    """A folder's files by their path in it, as `Hub.create` takes them."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in paths}
