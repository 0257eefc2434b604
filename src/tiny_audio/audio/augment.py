"""Augmentation of training audio on the model's device.

B utterances, M mel bands, L mel frames, N masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiny_audio.errors import ConfigError


class SpecAugment(nn.Module):
    """Time and frequency masks on the log-mel (Park et al. 2019, arXiv:1904.08779, section 2).

    As in the paper each mask's width is uniform from 0 to its maximum and its place uniform among
    those where it fits; time warping, which the paper found to matter least, is left out. Masked
    cells become 0, which is the paper's choice for features near zero mean, as Whisper's scaled
    log-mel is. The masks of one utterance never cover all of its frames or all bands, and a
    module in evaluation mode changes nothing.

    Args:
        freq_masks: masks over mel bands for each utterance.
        freq_width: mel bands at most in one.
        time_masks: masks over frames for each utterance.
        time_width: mel frames at most in one.
        max_time_fraction: of the utterance's own frames at most in one time mask.
    """

    def __init__(
        self,
        freq_masks: int,
        freq_width: int,
        time_masks: int,
        time_width: int,
        max_time_fraction: float,
    ) -> None:
        super().__init__()
        if min(freq_masks, freq_width, time_masks, time_width) < 0:
            raise ConfigError("spec_augment: the number and width of masks cannot be negative")
        if not 0.0 <= max_time_fraction <= 1.0:
            raise ConfigError(
                f"spec_augment.max_time_fraction must lie in [0, 1], got {max_time_fraction}"
            )
        self.freq_masks, self.freq_width = freq_masks, freq_width
        self.time_masks, self.time_width = time_masks, time_width
        self.max_time_fraction = max_time_fraction

    def forward(
        self, mel: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mask a batch; the input is left as it is.

        Args:
            mel: [B, M, L] log-mel.
            lengths: [B] frames of each utterance; only these are masked.
            generator: where the masks are drawn, on any device; the default generator of the
                mel's device without one.

        Returns:
            mel [B, M, L] with masked cells 0.
        """
        if not self.training:
            return mel
        bands = torch.full_like(lengths, mel.shape[1])
        width = bands.clamp(max=self.freq_width)
        masked = self._masks(self.freq_masks, width, bands, mel.shape[1], generator)[:, :, None]
        width = (lengths * self.max_time_fraction).long().clamp(max=self.time_width)
        masked = (
            masked | self._masks(self.time_masks, width, lengths, mel.shape[2], generator)[:, None]
        )
        return mel.masked_fill(masked, 0.0)

    @staticmethod
    def _masks(
        number: int, width: Tensor, extent: Tensor, size: int, generator: torch.Generator | None
    ) -> Tensor:
        """Draw masks of at most `width` [B] cells within the first `extent` [B] of `size` cells.

        Returns:
            [B, size] bool, the union of each utterance's masks, smaller than its extent.
        """
        device = width.device if generator is None else generator.device
        uniform = torch.rand(2, len(width), number, generator=generator, device=device)
        uniform = uniform.to(width.device)  # [2, B, N]
        extent = extent[:, None]
        most = torch.minimum(width[:, None], (extent - 1).clamp(min=0) // max(number, 1))
        drawn = (uniform[0] * (most + 1)).long().clamp(max=most)
        start = (uniform[1] * (extent - drawn + 1)).long()
        start = torch.minimum(start, extent - drawn)  # float32 may round up to the next integer
        position = torch.arange(size, device=width.device)  # [size]
        inside = (position >= start[..., None]) & (position < (start + drawn)[..., None])
        return inside.any(dim=1)
