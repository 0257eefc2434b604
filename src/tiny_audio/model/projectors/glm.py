"""GLM-ASR's own projector: transformers' GlmAsrForConditionalGeneration can take it over."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_audio.model.projectors.base import Projector, stack_frames


class Glm(Projector):
    """Frame stacking, Linear, GELU (exact), Linear, with biases; the inner width is 2 W. No
    norm sets the scale, so the second Linear is scaled once, at the start: frames of unit variance
    give tokens of ``output_rms``."""

    def __init__(self, d_encoder: int, d_decoder: int, output_rms: float, *, stride: int) -> None:
        super().__init__(d_encoder, d_decoder, stride=stride)
        self.stride = stride
        self.linear_1 = nn.Linear(stride * d_encoder, 2 * d_decoder)
        self.linear_2 = nn.Linear(2 * d_decoder, d_decoder)
        with torch.no_grad():
            tokens = self._layers(torch.randn(64, stride * d_encoder))
            scale = output_rms / tokens.square().mean().sqrt()
            for parameter in self.linear_2.parameters():
                parameter.mul_(scale)

    def _layers(self, stacked: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(stacked)))  # type: ignore[no-any-return]

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """[B, E, D], [B] -> [B, A, W]."""
        x = self._compute_dtype(frames, self.linear_1.weight)
        x = self._layers(stack_frames(x, lengths, self.stride))  # [B, A, W]
        return self._finish(x, lengths, frames.dtype)
