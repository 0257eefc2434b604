"""The frozen language model that writes: any transformers causal LM with a chat template."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from tiny_audio.errors import ModelError, first_line
from tiny_audio.hub import MODEL_FILES, snapshot
from tiny_audio.model.weights import random_module

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)


def load_decoder(
    source: str,
    *,
    revision: str | None,
    attn_implementation: str,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer, frozen, in the compute dtype. Raises HubError where it
    cannot be fetched, ModelError where it is no causal LM or damaged."""
    hf_logging.disable_progress_bar()  # of reading files; that of downloading stays
    folder = snapshot(source, revision, files=MODEL_FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        lm: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn_implementation
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"{source}: cannot be loaded as a decoder from {folder}: {first_line(error)}; if a "
            "file is damaged, delete the folder and run again"
        ) from None
    return lm.to(device).requires_grad_(False).eval(), tokenizer


def random_decoder(
    architecture: Mapping[str, Any],
    *,
    attn_implementation: str,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build a decoder with random weights and a byte-level tokenizer; downloads nothing."""
    tokenizer = byte_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    values = ids | dict(architecture)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    options = {"dtype": dtype, "attn_implementation": attn_implementation}
    lm: Any = random_module(
        lambda: AutoModelForCausalLM.from_config(config, **options), seed, dtype, device
    )
    return lm.requires_grad_(False).eval(), tokenizer


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte (ids 0 to 255), Qwen's special tokens (256 to 259) and chat format."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_pad|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def embedding_table(lm: PreTrainedModel) -> Tensor:
    """The decoder's input embeddings [vocabulary, W]."""
    layer: Any = lm.get_input_embeddings()
    return cast(Tensor, layer.weight)


def embedding_rms(lm: PreTrainedModel) -> float:
    """Root mean square over all entries of the decoder's embedding table (0.03 for Qwen3-0.6B)."""
    table = embedding_table(lm)
    if table.is_meta:
        return 1.0  # a model without numbers
    norm = torch.linalg.vector_norm(table.detach(), dtype=torch.float32)
    return float(norm) / math.sqrt(table.numel())
