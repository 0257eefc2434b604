"""What the collator hands to the model, and what the model hands to its decoder.

B utterances, S samples, E encoder frames, D encoder width, T tokens, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

IGNORE = -100  # label of a position that is not learned; PyTorch's own convention


@dataclass
class Batch:
    """Utterances side by side. In training the tokens are padded on the right and ``labels`` is
    set; for generation they are padded on the left and ``labels`` is None. Where ``frames`` is set,
    the waveform is not looked at again."""

    waveform: Tensor  # [B, S] float32, 16 kHz, zeros on the right
    waveform_lengths: Tensor  # [B] samples
    input_ids: Tensor  # [B, T] prompt with placeholders (and in training the transcript)
    attention_mask: Tensor  # [B, T] 1 where there is a token
    audio_mask: Tensor  # [B, T] True where an audio token goes
    labels: Tensor | None = None  # [B, T] IGNORE but for the transcript and its end token
    label_positions: Tensor | None = None  # [N] made by `label_positions` below
    frames: Tensor | None = None  # [B, E, D] of the encoder, zero beyond each clip
    frame_lengths: Tensor | None = None  # [B]
    epoch: float = 0.0  # passes through the training data at its end
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
        """The batch on ``device``; a waveform that nobody will look at stays where it is."""
        moved = self._map(lambda x: x.to(device, non_blocking=True))
        return moved if self.frames is None else replace(moved, waveform=self.waveform)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, as ``DataLoader(pin_memory=True)`` asks."""
        return self._map(lambda x: x.pin_memory())

    def rows(self, first: int, last: int) -> Batch:
        """Utterances ``first`` to before ``last`` of a training batch, padded as far as needed."""
        part = slice(first, last)
        lengths = self.waveform_lengths[part]
        width = int(self.attention_mask[part].sum(dim=1).max())
        rows = replace(
            self,
            waveform=self.waveform[part, : int(lengths.max())],
            waveform_lengths=lengths,
            input_ids=self.input_ids[part, :width],
            attention_mask=self.attention_mask[part, :width],
            audio_mask=self.audio_mask[part, :width],
            ids=self.ids[part],
            texts=self.texts[part],
        )
        if self.labels is not None:
            rows.labels = self.labels[part, :width]
            rows.label_positions = label_positions(rows.labels)
        return rows

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        changed: dict[str, Any] = {k: change(v) for k, v in tensors.items()}
        return replace(self, **changed)


class Prefill(NamedTuple):
    """The decoder's input."""

    inputs_embeds: Tensor  # [B, T, W]
    attention_mask: Tensor  # [B, T]
    position_ids: Tensor  # [B, T] counted from each row's first token


def label_positions(labels: Tensor) -> Tensor:
    """Positions [N] among the B * T that predict a label of ``labels`` [B, T], row by row. Position
    t predicts token t + 1. Found on the host, where the batch is made: on the device it would make
    the host wait in the middle of every step."""
    shifted = pad(labels[:, 1:], (0, 1), value=IGNORE)
    return (shifted.flatten() != IGNORE).nonzero().squeeze(1)
