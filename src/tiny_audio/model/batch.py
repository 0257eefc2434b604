"""What the collator hands to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # label of a position that is not learned; PyTorch's own convention


@dataclass
class Batch:
    """Utterances side by side. B utterances, S samples, T tokens.

    In training the tokens are padded on the right and ``labels`` is set; for generation they are
    padded on the left and ``labels`` is None.
    """

    waveform: Tensor  # [B, S] float32, 16 kHz, zeros on the right
    waveform_lengths: Tensor  # [B] samples
    input_ids: Tensor  # [B, T] prompt with placeholders (and in training the transcript)
    attention_mask: Tensor  # [B, T] 1 where there is a token
    audio_mask: Tensor  # [B, T] True where an audio token goes
    labels: Tensor | None = None  # [B, T] IGNORE but for the transcript and its end token
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.waveform.shape[0]

    @property
    def audio_seconds(self) -> float:
        """Seconds of real audio, padding not counted."""
        return float(self.waveform_lengths.sum()) / 16_000

    @property
    def padded_seconds(self) -> float:
        """Seconds of audio that the model computes on, padding included."""
        return self.waveform.numel() / 16_000

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``; copies from pinned memory do not block."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, as ``DataLoader(pin_memory=True)`` asks."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **{**values, **changed})
