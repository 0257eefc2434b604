"""Tiny random models of transformers as folders, with a small vocabulary of their own."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

LETTERS = "etaoinshrdlu"


def save_ctc(folder: Path) -> str:
    """A wav2vec 2.0 with random weights, loud enough to say more than blanks."""
    folder.mkdir(parents=True)
    words = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(8, 8, 8), conv_stride=(10, 8, 4), conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
        do_stable_layer_norm=True, pad_token_id=0,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    model.save_pretrained(folder)
    return str(folder)


def save_whisper(folder: Path) -> str:
    """An English Whisper with random weights, large enough for texts to differ."""
    folder.mkdir(parents=True)
    plain = ["<|endoftext|>", *LETTERS, *(f"Ġ{letter}" for letter in LETTERS)]
    special = ["<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {word: i for i, word in enumerate([*plain, *special])}
    tokenizer = WhisperTokenizer(
        vocab={word: vocabulary[word] for word in plain}, merges=[],
        unk_token="<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", additional_special_tokens=special,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_mel_bins=80, max_target_positions=32, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, decoder_start_token_id=len(plain),
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.mul_(12)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=len(plain), eos_token_id=0, pad_token_id=0, bos_token_id=0,
        max_length=24, no_timestamps_token_id=len(plain) + 1, is_multilingual=False,
        suppress_tokens=[len(plain), len(plain) + 1],
    )  # fmt: skip
    model.save_pretrained(folder)
    return str(folder)
