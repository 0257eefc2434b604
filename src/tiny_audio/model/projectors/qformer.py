"""Q-Former: a few learned queries read each window of frames by cross-attention.

BLIP-2's Querying Transformer (arXiv 2301.12597), as transformers implements it, over windows of
encoder frames as in SALMONN (arXiv 2310.13289). No window sees another. One thing is added: frames
of an encoder with rotary attention do not carry their places, and without them the queries learn
which sounds a window holds but not their order, so each place in a window has a learned vector,
zero at the start. R windows, Q queries a window, K frames a window, H the Q-Former's width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from tiny_audio.errors import ConfigError
from tiny_audio.model.projectors.base import Length, Projector, RMSNorm, length_mask


class QFormer(Projector):
    """Windows of frames, learned queries, Q-Former, Linear, RMSNorm. A clip of n frames has ceil(n
    / window) windows; what the last lacks is masked as keys, and it yields all its queries.
    ``window`` is K, ``queries`` Q, ``hidden`` H."""

    def __init__(
        self,
        d_encoder: int,
        d_decoder: int,
        output_rms: float,
        *,
        window: int,
        queries: int,
        layers: int,
        heads: int,
        hidden: int,
        intermediate: int,
    ) -> None:
        sizes = {"window": window, "queries": queries, "layers": layers, "heads": heads}
        super().__init__(d_encoder, d_decoder, **sizes, hidden=hidden)
        if hidden % heads:
            raise ConfigError(
                f"model.projector.qformer.hidden is {hidden}; it must be a multiple of heads "
                f"({heads})."
            )
        self.window, self.n_queries = window, queries
        self.queries = nn.Parameter(torch.randn(queries, hidden))
        self.positions = nn.Parameter(torch.zeros(window, d_encoder))
        config = Blip2QFormerConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            cross_attention_frequency=1,
            encoder_hidden_size=d_encoder,
        )
        config._attn_implementation = "sdpa"
        self.qformer = Blip2QFormerModel(config)
        self.linear = nn.Linear(hidden, d_decoder, bias=False)
        self.norm = RMSNorm(d_decoder, gain=output_rms)

    def out_len(self, n: Length) -> Length:
        """Audio tokens that ``n`` frames give: ceil(n / window) * queries."""
        return -(-n // self.window) * self.n_queries

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """[B, E, D], [B] -> [B, A, W]."""
        n_frames = frames.shape[1]
        if n_frames == 0:
            return frames.new_zeros(len(frames), 0, self.d_decoder)
        x = self._compute_dtype(frames, self.linear.weight)
        x = x.masked_fill(~length_mask(lengths, n_frames)[..., None], 0.0)
        x = F.pad(x, (0, 0, 0, -n_frames % self.window))
        keys = length_mask(lengths, x.shape[1])

        windows = x.reshape(-1, self.window, self.d_encoder) + self.positions  # [R, K, D]
        keys = keys.reshape(-1, self.window)  # [R, K]
        # A window of padding alone attends to itself: attention over nothing is NaN, and
        # these tokens are blanked below.
        keys = keys | ~keys.any(-1, keepdim=True)
        queries = self.queries.expand(len(windows), -1, -1)  # [R, Q, H]
        y = self.qformer(
            query_embeds=queries, encoder_hidden_states=windows, encoder_attention_mask=keys
        ).last_hidden_state
        y = self.norm(self.linear(y))  # [R, Q, W]
        return self._finish(y.reshape(len(frames), -1, self.d_decoder), lengths, frames.dtype)
