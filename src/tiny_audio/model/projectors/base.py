"""What every projector shares: the contract, frame stacking, lengths, masks and output scale.

Shapes: B utterances, E encoder frames, A audio tokens, D encoder width, W decoder width,
M real audio tokens of a batch, N experts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_audio.errors import ConfigError

Length = TypeVar("Length", int, Tensor)  # one length, or a tensor of them

NORM_EPS = 1e-6  # as in Qwen3's own RMSNorm
SCALE_DRIFT = 10.0  # tokens so many times louder or quieter than embeddings deserve a warning
DEAD_BELOW = 0.05  # of an even share: an expert that gets less learns next to nothing


def stacked_len(n: Length, stride: int) -> Length:
    """Number of whole groups of ``stride`` frames in ``n`` frames; 0 where ``n < stride``."""
    return (n - stride) // stride + 1


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Mark the real positions: lengths [B] -> bool [B, size]."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def stack_frames(frames: Tensor, lengths: Tensor, stride: int) -> Tensor:
    """Join each ``stride`` neighbouring frames into one: [B, E, D] -> [B, A, stride * D].

    Frames beyond a clip's length count as zero, whatever they hold; frames left over at the end
    that do not fill a group are dropped.
    """
    batch, n_frames, width = frames.shape
    frames = frames.masked_fill(~length_mask(lengths, n_frames)[..., None], 0.0)
    groups = stacked_len(n_frames, stride)
    return frames[:, : groups * stride].reshape(batch, groups, stride * width)


def require_positive(owner: str, **values: int) -> None:
    """Raise ConfigError for the first of the named sizes that is below 1."""
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"model.projector.{owner}.{name} is {value}; it must be at least 1.")


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums and softmax: float32, or float64 where the input has it."""
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.RMSNorm):
    """RMSNorm that computes in float32 at least and returns its input's dtype."""

    def __init__(self, width: int, gain: float = 1.0) -> None:
        super().__init__(width, eps=NORM_EPS)
        nn.init.constant_(self.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        dtype = wide(x.dtype)
        out = F.rms_norm(x.to(dtype), self.normalized_shape, self.weight.to(dtype), self.eps)
        return out.to(x.dtype)


class Projector(nn.Module, ABC):
    """Turns encoder frames [B, E, D] into audio tokens [B, A, W] in the decoder's space.

    Every projector is padding-invariant (a clip's tokens do not depend on its batch), starts at
    the RMS of the decoder's embedding rows, ``output_rms``, and works with frames of any float
    dtype: outside autocast the computation runs in the dtype of the weights, and the result has the
    dtype of the frames. A batch member too short for one token has only zero rows.
    """

    stride: int  # frames joined into one token

    def __init__(self, d_encoder: int, d_decoder: int, output_rms: float) -> None:
        super().__init__()
        self.d_encoder = d_encoder
        self.d_decoder = d_decoder
        self.output_rms = output_rms
        self._measured: dict[str, Tensor] = {}  # of the last forward, detached
        self._aux_loss: Tensor | None = None

    def out_len(self, n: Length) -> Length:
        """Audio tokens that ``n`` frames give."""
        return stacked_len(n, self.stride)

    @abstractmethod
    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Project frames [B, E, D] with lengths [B] to tokens [B, out_len(E), W].

        Positions from ``out_len(lengths)`` on are exactly zero.
        """

    @property
    def aux_loss(self) -> Tensor | None:
        """Weighted sum of the auxiliary losses of the last training forward, or None."""
        return self._aux_loss

    def stats(self) -> dict[str, float]:
        """Numbers about the last forward; reading them waits for the device, once.

        A measure with one value for each expert is spread out as ``share_0``, ``share_1``, ...
        """
        if not self._measured:
            return {}
        names = [
            f"{name}_{i}" if value.dim() else name
            for name, value in self._measured.items()
            for i in range(value.numel())
        ]
        values = torch.cat([v.detach().float().reshape(-1) for v in self._measured.values()])
        return dict(zip(names, values.tolist(), strict=True))

    def _compute_dtype(self, frames: Tensor, weight: Tensor) -> Tensor:
        """Bring frames to the weights' dtype, unless autocast chooses the dtype."""
        return frames if torch.is_autocast_enabled(frames.device.type) else frames.to(weight.dtype)

    def _finish(self, tokens: Tensor, lengths: Tensor, dtype: torch.dtype) -> Tensor:
        """Zero what lies beyond each clip's tokens, measure the scale and set the dtype."""
        real = length_mask(self.out_len(lengths), tokens.shape[1])
        tokens = tokens.masked_fill(~real[..., None], 0.0)
        squares = tokens.detach().float().square().sum()
        count = (real.sum() * self.d_decoder).clamp(min=1)
        self._measured["output_rms"] = (squares / count).sqrt()
        return tokens.to(dtype)

    def _measure_router(self, probabilities: Tensor, shares: Tensor, n_tokens: Tensor) -> None:
        """Note one batch's routing: who gets the frames, and how decidedly.

        ``share`` [N]; ``dead_experts``; ``router_entropy``: mean entropy of one token's softmax in
        nats, and ``router_entropy_ratio``, its part of ln N; ``share_entropy_ratio``: entropy of
        the shares as part of ln N, 1 where the load is even and 0 where one expert has it all.

        Args:
            probabilities: [M, N] router softmax; rows that are no real token are all zero.
            shares: [N] share of the work that each expert got; sums to 1.
            n_tokens: number of real tokens (at least 1).
        """
        n = shares.numel()
        most = math.log(n) if n > 1 else 1.0
        per_token = -(probabilities * probabilities.clamp(min=1e-20).log()).sum(-1)
        entropy = per_token.sum() / n_tokens
        share_entropy = -(shares * shares.clamp(min=1e-20).log()).sum()
        self._measured |= {
            "share": shares,
            "dead_experts": (shares < DEAD_BELOW / n).sum(),
            "router_entropy": entropy,
            "router_entropy_ratio": entropy / most,
            "share_entropy_ratio": share_entropy / most,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last forward behind: its graph can be neither copied nor pickled."""
        return {**self.__dict__, "_aux_loss": None, "_measured": {}}
