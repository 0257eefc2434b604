"""What every projector shares: the contract, frame stacking, lengths, masks and output scale.

Shapes: B utterances, E encoder frames, A audio tokens, D encoder width, W decoder width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_audio.errors import ConfigError

Length = TypeVar("Length", int, Tensor)  # one length, or a tensor of them


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Mark the real positions: lengths [B] -> bool [B, size]."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def stack_frames(frames: Tensor, lengths: Tensor, stride: int) -> Tensor:
    """Join each ``stride`` neighbouring frames into one: [B, E, D] -> [B, A, stride * D]. Frames
    beyond a clip's length count as zero, whatever they hold; frames left over at the end that do
    not fill a group are dropped."""
    batch, n_frames, width = frames.shape
    frames = frames.masked_fill(~length_mask(lengths, n_frames)[..., None], 0.0)
    groups = n_frames // stride
    return frames[:, : groups * stride].reshape(batch, groups, stride * width)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums and softmax: float32, or float64 where the input has it."""
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.RMSNorm):
    """RMSNorm that computes in float32 at least and returns its input's dtype."""

    def __init__(self, width: int, gain: float = 1.0) -> None:
        super().__init__(width, eps=1e-6)  # as in Qwen3
        nn.init.constant_(self.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        dtype = wide(x.dtype)
        out = F.rms_norm(x.to(dtype), self.normalized_shape, self.weight.to(dtype), self.eps)
        return out.to(x.dtype)


class Projector(nn.Module, ABC):
    """Turns encoder frames [B, E, D] into audio tokens [B, A, W] in the decoder's space.

    Every projector is padding-invariant (a clip's tokens do not depend on its batch), starts at
    the RMS of the decoder's embedding rows, and works with frames of any float dtype: outside
    autocast the computation runs in the dtype of the weights, and the result has the dtype of the
    frames. A batch member too short for one token has only zero rows.
    """

    stride: int  # frames joined into one token

    def __init__(self, d_encoder: int, d_decoder: int, **sizes: int) -> None:
        """``sizes`` must be 1 or more, else ConfigError."""
        super().__init__()
        for name, size in sizes.items():
            if size < 1:
                setting = f"model.projector.{type(self).__name__.lower()}.{name}"
                raise ConfigError(f"{setting} is {size}; it must be at least 1.")
        self.d_encoder, self.d_decoder = d_encoder, d_decoder
        self.aux_loss: Tensor | None = None  # weighted, of the last forward in training
        self._measured: dict[str, Tensor] = {}  # of the last forward, detached

    def out_len(self, n: Length) -> Length:
        """Audio tokens that ``n`` frames give."""
        return n // self.stride

    @abstractmethod
    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Project frames [B, E, D] with lengths [B] to tokens [B, out_len(E), W]. Positions from
        ``out_len(lengths)`` on are exactly zero."""

    def stats(self) -> dict[str, float]:
        """Numbers about the last forward: ``output_rms``, and where there are experts the share of
        the work that each gets, ``share_0``, ``share_1``, ... Reading them waits for the device."""
        return {
            f"{name}_{i}" if measured.dim() else name: value
            for name, measured in self._measured.items()
            for i, value in enumerate(measured.float().reshape(-1).tolist())
        }

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

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last forward behind: its graph can be neither copied nor pickled."""
        return {**self.__dict__, "aux_loss": None, "_measured": {}}
