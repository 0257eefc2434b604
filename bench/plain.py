"""The plain way: what a competent user of transformers writes for the same pair.

transformers' own encoder forward, a stacked-frame MLP, the audio put into ``inputs_embeds``, the
whole language model called with ``labels=``, ``generate`` one recording at a time. Frozen weights
are in bf16 on CUDA, what learns is in fp32 under autocast, padding is the stock processor's.

B utterances, L mel frames, E encoder frames, A audio tokens, T tokens, D and W widths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from bench.load import Load, extractor, host_mel
from tiny_audio.model.projectors.mlp import Mlp
from tiny_audio.model.speech import SpeechModel


class Plain(nn.Module):
    """Encoder, MLP and language model by hand, on the very weights of a SpeechModel."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        ours = model.projector
        assert isinstance(ours, Mlp)
        self.stride = ours.stride
        self.tower: Any = model.encoder.tower
        norm = Qwen3RMSNorm(ours.linear_1.out_features)
        norm_2 = Qwen3RMSNorm(ours.linear_2.out_features)
        norm.weight, norm_2.weight = ours.norm.weight, ours.norm_2.weight
        self.projector = nn.Sequential(ours.linear_1, norm, nn.GELU(), ours.linear_2, norm_2)
        self.lm: Any = model.causal_lm
        self.prompt = model.prompt
        self.extractor = extractor(model)

    def embed(self, features: Tensor, input_ids: Tensor, audio_mask: Tensor) -> Tensor:
        """Log-mel [B, M, L] and ids [B, T] to input embeddings [B, T, W]."""
        with torch.no_grad():
            dtype = self.tower.conv1.weight.dtype
            frames = self.tower(features.to(dtype)).last_hidden_state  # [B, E, D]
        groups = frames.shape[1] // self.stride
        stacked = frames[:, : groups * self.stride].reshape(len(frames), groups, -1)
        if not torch.is_autocast_enabled(frames.device.type):
            stacked = stacked.to(next(self.projector.parameters()).dtype)
        tokens = self.projector(stacked)  # [B, A, W]
        kept = torch.arange(groups, device=tokens.device) < audio_mask.sum(1, keepdim=True)
        embeds: Tensor = self.lm.get_input_embeddings()(input_ids)
        return embeds.masked_scatter(audio_mask.unsqueeze(-1), tokens[kept].to(embeds.dtype))

    def loss(self, load: Load) -> Tensor:
        """Mean cross-entropy, as the language model computes it from its labels."""
        assert load.features is not None
        batch = load.batch
        embeds = self.embed(load.features, batch.input_ids, batch.audio_mask)
        out = self.lm(
            inputs_embeds=embeds,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            use_cache=False,
        )
        loss: Tensor = out.loss
        return loss

    @torch.no_grad()
    def transcribe(self, waveform: Any, padding: str, n_audio: int, new_tokens: int) -> list[int]:
        """Ids that ``generate`` writes for one recording: exactly ``new_tokens`` of them."""
        return self.decode(host_mel(self.extractor, [waveform], padding), n_audio, new_tokens)

    @torch.no_grad()
    def decode(
        self, features: Tensor, n_audio: int, new_tokens: int, exact: bool = True
    ) -> list[int]:
        """The same from a log-mel [1, M, L]; not ``exact``: at most so many tokens."""
        device = next(self.projector.parameters()).device
        ids = torch.tensor([self.prompt.build(n_audio)], device=device)
        first, last = self.prompt.audio_span(n_audio)
        audio_mask = torch.zeros_like(ids, dtype=torch.bool)
        audio_mask[:, first:last] = True
        out = self.lm.generate(
            inputs_embeds=self.embed(features.to(device), ids, audio_mask),
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens if exact else None,
            do_sample=False,
            pad_token_id=self.prompt.end_id,
        )
        written: list[int] = out[0].tolist()
        return written
