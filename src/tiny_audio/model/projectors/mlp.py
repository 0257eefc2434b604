"""The default projector: stack frames, then a two-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tiny_audio.model.projectors.base import Projector, RMSNorm, stack_frames


class Mlp(Projector):
    """Frame stacking, Linear, RMSNorm, GELU (exact), Linear, RMSNorm; no biases. The last norm's
    gain starts at ``output_rms``: a freshly initialised second Linear alone would start about 30
    times too quiet beside the decoder's embeddings."""

    def __init__(
        self, d_encoder: int, d_decoder: int, output_rms: float, *, stride: int, hidden: int
    ) -> None:
        super().__init__(d_encoder, d_decoder, stride=stride, hidden=hidden)
        self.stride = stride
        self.linear_1 = nn.Linear(stride * d_encoder, hidden, bias=False)
        self.norm = RMSNorm(hidden)
        self.linear_2 = nn.Linear(hidden, d_decoder, bias=False)
        self.norm_2 = RMSNorm(d_decoder, gain=output_rms)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """[B, E, D], [B] -> [B, A, W]."""
        x = self._compute_dtype(frames, self.linear_1.weight)
        x = stack_frames(x, lengths, self.stride)  # [B, A, stride * D]
        x = F.gelu(self.norm(self.linear_1(x)))  # [B, A, hidden]
        x = self.norm_2(self.linear_2(x))  # [B, A, W]
        return self._finish(x, lengths, frames.dtype)
