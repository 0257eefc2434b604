"""What the decoder looks at while it writes: its attention to the audio tokens, for word times.

Shapes: R rows that are held, H heads, G of them to a key-value head, K width of a head, T prompt
tokens, C positions so far, A audio tokens of the longest row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

OBSERVED = "tiny_audio_observed"  # as an attention implementation of transformers


class AudioAttention:
    """Attention of the newest position to a left-padded batch's audio, summed over all heads.

    Heads count by the square of their peak: those that look at one place, rather than all over,
    say where a token is spoken, and which ones do so differs from decoder to decoder.
    """

    def __init__(self, audio_mask: Tensor) -> None:  # [R, T]
        columns = audio_mask.any(dim=0).nonzero()
        self._audio = slice(int(columns[0]), int(columns[-1]) + 1)
        self._mask = audio_mask[:, self._audio]  # [R, A]
        self.weights = torch.zeros(self._mask.shape, device=audio_mask.device)  # [R, A]

    def add(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> None:
        """Add one layer's, of query [R, H, ., K], key [R, H / G, C, K] and mask [R, 1, ., C]."""
        width = query.shape[-1]
        last = query[:, :, -1].unflatten(1, (key.shape[1], -1))  # [R, H / G, G, K]
        scores = (last @ key.transpose(2, 3)).float() * (scaling or width**-0.5)
        if mask is not None:
            visible = mask[:, :, -1:]
            hidden = ~visible if visible.dtype == torch.bool else visible < 0
            scores = scores.masked_fill(hidden, -torch.inf)
        weights = scores.softmax(-1)[..., self._audio] * self._mask[:, None, None]
        weights = weights.flatten(1, 2)  # [R, H, A]
        peaks = weights.amax(-1, keepdim=True)
        self.weights += (weights * peaks.square()).sum(1)

    def rows(self) -> list[Tensor]:
        """The sum of each row [A] on the host."""
        return list(self.weights.clone().cpu().unbind())

    def positions(self) -> Tensor:
        """The middle [R] of what each row looks at, in audio tokens."""
        places = torch.arange(self.weights.shape[1], device=self.weights.device)
        return (self.weights @ places.float()) / (self.weights.sum(-1) + 1e-9)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._mask, self.weights = self._mask[rows], self.weights[rows]


_lock = threading.Lock()
_observed: dict[PreTrainedModel, tuple[str, int]] = {}  # the usual attention, and how many look


@contextmanager
def observed(lm: PreTrainedModel) -> Iterator[None]:
    """Let the decoder's layers show their attention to the argument ``audio_attention``.

    Several may look at once, and those who do not ask decode through it as ever: a decoding that
    is read step by step may rest while others run.
    """
    with _lock:
        usual, looking = _observed.get(lm, (lm.config._attn_implementation, 0))
        _observed[lm] = usual, looking + 1
        lm.set_attn_implementation(OBSERVED)
    try:
        yield
    finally:
        with _lock:
            usual, looking = _observed.pop(lm)
            if looking > 1:
                _observed[lm] = usual, looking - 1
            else:
                lm.set_attn_implementation(usual)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    audio_attention: AudioAttention | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if audio_attention is not None:
        audio_attention.add(query, key, attention_mask, kwargs.get("scaling"))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(OBSERVED, _attend)
AttentionMaskInterface.register(OBSERVED, sdpa_mask)
