"""The two small models, how they are called in training, and their files.

B utterances, S samples, M mel bands, L mel frames, E encoder frames, A audio tokens, T tokens,
D encoder width, W decoder width.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import GlmAsrEncoderConfig, Qwen3Config, Qwen3ForCausalLM, WhisperFeatureExtractor
from transformers.models.glmasr.modeling_glmasr import GlmAsrEncoder

from recipes.nano.text import Vocabulary
from tiny_audio.audio.features import LogMel

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


def new_encoder() -> GlmAsrEncoder:
    """A fresh encoder."""
    config = GlmAsrEncoderConfig(**ENCODER)
    config._attn_implementation = "sdpa"
    return GlmAsrEncoder(config)


def new_decoder(vocabulary: Vocabulary) -> Any:
    """A fresh decoder for a vocabulary."""
    config = Qwen3Config(
        vocab_size=vocabulary.size, bos_token_id=None, eos_token_id=vocabulary.end,
        pad_token_id=vocabulary.ids("<|endoftext|>")[0], **DECODER,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return Qwen3ForCausalLM(config)


def encode(
    encoder: GlmAsrEncoder, mel: Tensor, lengths: Tensor, middle: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Map mel [B, M, L] to frames [B, E, D], lengths [B] and the middle hidden states.

    Padding is zeroed around the convolutions and hidden from attention, so that a clip's frames
    do not depend on its neighbours.
    """
    inside = torch.arange(mel.shape[2], device=mel.device) < lengths[:, None]
    x = functional.gelu(encoder.conv1(mel * inside[:, None])) * inside[:, None]
    x = functional.gelu(encoder.conv2(x)).transpose(1, 2)
    lengths = (lengths - 1) // 2 + 1
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    x = x * inside[:, :, None]
    places = torch.arange(x.shape[1], device=x.device)[None]
    rotary = encoder.rotary_emb(x, position_ids=places)
    keys = inside[:, None, None, :].expand(-1, 1, x.shape[1], -1)
    half = None
    for number, layer in enumerate(encoder.layers):
        if number == middle:
            half = x
        x = _layer(layer, x, keys, *rotary)
    return encoder.norm(x) * inside[:, :, None], lengths, half


def _layer(layer: Any, x: Tensor, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One encoder layer, by its weights (the stock layers' arguments differ between versions)."""
    attention, size = layer.self_attn, cos.shape[-1]
    normed = layer.input_layernorm(x)
    q, k, v = (
        project(normed).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )

    def turn(heads: Tensor) -> Tensor:
        part = heads[..., :size]
        left, right = part.chunk(2, -1)
        turned = part * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]
        return torch.cat([turned.to(heads.dtype), heads[..., size:]], -1)

    mixed = functional.scaled_dot_product_attention(turn(q), turn(k), v, attn_mask=keys)
    x = x + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    out: Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
    return out


class Projector(nn.Module):
    """The house MLP: two frames stacked, two linear layers, RMS norms; 12.5 tokens a second."""

    def __init__(self, d_encoder: int, d_decoder: int, output_rms: float, hidden: int = 512):
        super().__init__()
        self.linear_1 = nn.Linear(2 * d_encoder, hidden, bias=False)
        self.norm = nn.RMSNorm(hidden, eps=1e-6)
        self.linear_2 = nn.Linear(hidden, d_decoder, bias=False)
        self.norm_2 = nn.RMSNorm(d_decoder, eps=1e-6)
        nn.init.constant_(self.norm_2.weight, output_rms)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map frames [B, E, D] to audio tokens [B, A, W] and their lengths [B]."""
        count, size, width = frames.shape
        stacked = frames[:, : size // 2 * 2].reshape(count, size // 2, 2 * width)
        x = functional.gelu(self.norm(self.linear_1(stacked)))
        return self.norm_2(self.linear_2(x)), lengths // 2


def embedding_rms(decoder: Any) -> float:
    """Root mean square of the decoder's embedding rows."""
    return float(decoder.get_input_embeddings().weight.detach().float().square().mean().sqrt())


def padded(ids: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] padded with zeros to a multiple of 16, and their counts [B]."""
    counts = [len(row) for row in ids]
    table = np.zeros((len(ids), -(-max(counts, default=0) // 16) * 16 + 1), dtype=np.int64)
    for k, row in enumerate(ids):
        table[k, : len(row)] = row
    return torch.from_numpy(table).to(device), torch.tensor(counts, device=device)


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
    texts = []
    for row, size in zip(logits.argmax(-1).tolist(), lengths.tolist(), strict=True):
        row = row[:size]
        kept = [
            a for a, b in zip(row, [None, *row], strict=False) if a not in (b, vocabulary.blank)
        ]
        texts.append(vocabulary.text(kept))
    return texts


def new_features(device: torch.device) -> LogMel:
    """The pair's log-mel front end."""
    return LogMel(MELS, N_FFT, HOP).to(device)


def save_encoder(encoder: GlmAsrEncoder, folder: Path) -> None:
    """Write the encoder in bf16 with its config and its feature extractor's."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.config.save_pretrained(folder)
    state = {
        k: v.detach().to("cpu", torch.bfloat16).contiguous()
        for k, v in encoder.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    WhisperFeatureExtractor(feature_size=MELS, n_fft=N_FFT, hop_length=HOP).save_pretrained(folder)


def save_decoder(decoder: Any, tokenizer: Path, folder: Path) -> None:
    """Write the decoder in bf16 with its tokenizer files."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.bfloat16) for k, v in decoder.state_dict().items()}
    copy: Any = Qwen3ForCausalLM(decoder.config)
    copy = copy.to(torch.bfloat16)
    copy.load_state_dict({k: v.cpu() for k, v in state.items()})
    copy.generation_config.eos_token_id = decoder.config.eos_token_id
    copy.generation_config.pad_token_id = decoder.config.pad_token_id
    copy.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
