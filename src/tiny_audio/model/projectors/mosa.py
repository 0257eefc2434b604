"""Mixture of Simple Adapters (arXiv 2508.18998): small perceptrons, all at work, blended by frame.

``y = sum_i w_i E_i(x)`` with ``w = softmax(G(x))``; there is no auxiliary loss. The blend is dense,
so scaling the hidden units of adapter i by ``w_i`` before the second layer gives the same sum, and
both layers are one matrix product over all adapters. N adapters, H width inside one adapter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_audio.model.projectors.base import Projector, RMSNorm, length_mask, stack_frames, wide


class Mosa(Projector):
    """Frame stacking, N two-layer adapters (Linear, GELU, Linear) blended by a router, RMSNorm.
    ``hidden`` is the width inside one adapter, ``router_hidden`` inside the router (Linear, GELU,
    Linear, softmax)."""

    def __init__(
        self,
        d_encoder: int,
        d_decoder: int,
        output_rms: float,
        *,
        stride: int,
        adapters: int,
        hidden: int,
        router_hidden: int,
    ) -> None:
        sizes = {"stride": stride, "adapters": adapters, "hidden": hidden}
        super().__init__(d_encoder, d_decoder, **sizes, router_hidden=router_hidden)
        self.stride = stride
        d_in = stride * d_encoder
        self.router = nn.Sequential(
            nn.Linear(d_in, router_hidden), nn.GELU(), nn.Linear(router_hidden, adapters)
        )
        self.weight_1 = nn.Parameter(torch.empty(adapters, hidden, d_in))
        self.bias_1 = nn.Parameter(torch.empty(adapters, hidden))
        self.weight_2 = nn.Parameter(torch.empty(adapters, hidden, d_decoder))
        self.bias_2 = nn.Parameter(torch.empty(adapters, d_decoder))
        self.norm = RMSNorm(d_decoder, gain=output_rms)
        for parameter, fan_in in (
            (self.weight_1, d_in),
            (self.bias_1, d_in),
            (self.weight_2, hidden),
            (self.bias_2, hidden),
        ):  # as nn.Linear does for each adapter
            nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """[B, E, D], [B] -> [B, A, W]."""
        x = self._compute_dtype(frames, self.weight_1)
        x = stack_frames(x, lengths, self.stride)  # [B, A, stride * D]
        logits = self.router(x)  # [B, A, N]
        blend = logits.softmax(-1, dtype=wide(logits.dtype))
        real = length_mask(self.out_len(lengths), x.shape[1])[..., None]
        self._measured["share"] = (blend.detach() * real).sum((0, 1)) / real.sum().clamp(min=1)
        h = F.gelu(F.linear(x, self.weight_1.flatten(0, 1), self.bias_1.flatten()))
        h = h.reshape(*blend.shape, self.bias_1.shape[1])  # [B, A, N, H]
        h = (h * blend[..., None].to(h.dtype)).flatten(-2)  # [B, A, N * H]
        y = h @ self.weight_2.flatten(0, 1) + blend.to(h.dtype) @ self.bias_2
        return self._finish(self.norm(y), lengths, frames.dtype)
