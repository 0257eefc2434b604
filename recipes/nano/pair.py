"""The two small models, how they are called in training, and their files.

B utterances, E encoder frames, A audio tokens, T tokens, V ids, W decoder width.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GlmAsrEncoderConfig, Qwen3Config, Qwen3ForCausalLM, WhisperFeatureExtractor
from transformers.models.glmasr.modeling_glmasr import GlmAsrEncoder

from recipes.nano.text import Vocabulary
from tiny_audio.audio.features import LogMel
from tiny_audio.model.encoder import GlmEncoder

MELS, N_FFT, HOP = 80, 512, 320
ENCODER: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_mel_bins": MELS,
    "max_position_embeddings": 1500, "attention_dropout": 0.0,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
    },
}  # fmt: skip
DECODER: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "tie_word_embeddings": True, "max_position_embeddings": 1024,
}  # fmt: skip


def new_encoder() -> GlmEncoder:
    """A fresh encoder."""
    config = GlmAsrEncoderConfig(**ENCODER)
    config._attn_implementation = "sdpa"
    return GlmEncoder(GlmAsrEncoder(config), padding="tight")


def new_decoder(vocabulary: Vocabulary) -> Any:
    """A fresh decoder for a vocabulary."""
    config = Qwen3Config(
        vocab_size=vocabulary.size, bos_token_id=None, eos_token_id=vocabulary.end,
        pad_token_id=vocabulary.ids("<|endoftext|>")[0], **DECODER,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return Qwen3ForCausalLM(config)


def turn_loss(
    decoder: Any, vocabulary: Vocabulary, audio: Tensor, lengths: Tensor,
    targets: Tensor, counts: Tensor,
) -> Tensor:  # fmt: skip
    """Mean cross-entropy of transcripts [B, T] and their end, after audio tokens [B, A, W].

    Every row is prompt, audio, end of prompt, transcript, each as long as it is; all of it is
    index arithmetic on the device. Rows are padded on the right and attention is causal, so no
    padding mask is needed.
    """
    v, device = vocabulary, audio.device
    prefix, suffix = (torch.tensor(x, device=device) for x in (v.prefix, v.suffix))
    rows, places, width = audio.shape
    size = len(prefix) + places + len(suffix) + targets.shape[1]
    place = torch.arange(size, device=device)[None].expand(rows, -1)
    heard = place - len(prefix)  # place within the audio
    after = heard - lengths[:, None]  # within the end of the prompt
    said = after - len(suffix)  # within the transcript
    tokens = prefix[place.clamp(max=len(prefix) - 1)]
    tokens = torch.where(after >= 0, suffix[after.clamp(0, len(suffix) - 1)], tokens)
    answer = targets.gather(1, said.clamp(0, targets.shape[1] - 1))
    tokens = torch.where(said >= 0, answer, tokens)
    embedded = decoder.get_input_embeddings()(tokens)
    index = heard.clamp(0, places - 1)[:, :, None].expand(-1, -1, width)
    inside = ((heard >= 0) & (after < 0))[:, :, None]
    x = torch.where(inside, audio.gather(1, index).to(embedded.dtype), embedded)
    hidden = decoder.model(inputs_embeds=x, use_cache=False).last_hidden_state
    # The last token of the prompt predicts the first of the transcript, and so on to the end.
    order = torch.arange(targets.shape[1], device=device)[None]
    asked = order + (len(prefix) + len(suffix) - 1) + lengths[:, None]
    chosen = hidden.gather(1, asked[:, :, None].expand(-1, -1, hidden.shape[2]))
    logits = functional.linear(chosen, decoder.lm_head.weight).float()
    labels = torch.where(order == counts[:, None], v.end, targets)
    labels = torch.where(order <= counts[:, None], labels, -100)
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


@torch.no_grad()
def write(
    decoder: Any, vocabulary: Vocabulary, audio: Tensor, lengths: Tensor,
    longest: int = 120,
) -> list[str]:  # fmt: skip
    """Greedy transcripts of audio tokens [B, A, W]."""
    v, table = vocabulary, decoder.get_input_embeddings()
    before, after = (torch.tensor(x, device=audio.device) for x in (v.prefix, v.suffix))
    before, after = table(before), table(after)
    sizes = lengths.tolist()
    total = len(v.prefix) + max(sizes) + len(v.suffix)
    x = torch.zeros(len(sizes), total, audio.shape[2], device=audio.device, dtype=before.dtype)
    mask = torch.zeros(len(sizes), total, dtype=torch.long, device=audio.device)
    for k, size in enumerate(sizes):
        row = torch.cat([before, audio[k, :size].to(before.dtype), after])
        x[k, -len(row) :] = row
        mask[k, -len(row) :] = 1
    made = decoder.generate(
        inputs_embeds=x, attention_mask=mask, max_new_tokens=longest, do_sample=False,
        eos_token_id=v.end, pad_token_id=v.end,
    )  # fmt: skip
    return [v.text(row) for row in made.tolist()]


def spell(logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[str]:
    """Greedy CTC transcripts of logits [B, E, V]."""
    rows = zip(logits.argmax(-1), lengths.tolist(), strict=True)
    kept = (row[:size].unique_consecutive().tolist() for row, size in rows)
    return [vocabulary.text([token for token in row if token != vocabulary.blank]) for row in kept]


def new_features(device: torch.device) -> LogMel:
    """The pair's log-mel front end."""
    return LogMel(MELS, N_FFT, HOP).to(device)


def save_encoder(tower: GlmAsrEncoder, folder: Path) -> None:
    """Turn the encoder to bf16 and write it with its feature extractor's config."""
    tower.to("cpu", torch.bfloat16).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=MELS, n_fft=N_FFT, hop_length=HOP).save_pretrained(folder)


def save_decoder(decoder: Any, tokenizer: Path, folder: Path) -> None:
    """Write the decoder in bf16 with its tokenizer files."""
    made = copy.deepcopy(decoder).to("cpu", torch.bfloat16)
    made.generation_config.eos_token_id = decoder.config.eos_token_id
    made.generation_config.pad_token_id = decoder.config.pad_token_id
    made.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
