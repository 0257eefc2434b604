"""What the decoder remembers between two tokens, and the step from one token to the next.

``Preallocated`` writes keys and values in place, into buffers that are made once. ``Growing`` is
transformers' own cache, which is copied for every token; it serves decoders with layers of other
kinds (sliding windows, recurrences) and attention kernels that take no mask of ours.

Shapes: R rows that are held, C places of the buffers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from tiny_audio.model.cuda_graph import Run, capture_cuda
from tiny_audio.model.kv_buffers import ROOM, Buffers
from tiny_audio.model.packing import PACKED

if TYPE_CHECKING:
    from tiny_audio.model.speech import Prefill

EAGER_STEPS = 3  # of one shape before it is captured: capturing costs about as much


class Memory(Protocol):
    """Decodes one token for every row that is held."""

    def first(self) -> Tensor:
        """Read the prompt; logits [R, V] of the first new token."""

    def next(self, tokens: Tensor) -> Tensor:
        """Read one token [R] for each row; logits [R, V] of the one after it.

        They are valid until the next call.
        """

    def worth(self, live: int, held: int) -> bool:
        """Whether dropping the rows that are done saves more than it costs."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, in this order (ascending)."""


def remember(lm: PreTrainedModel, prefill: Prefill, *, graphs: bool) -> Memory:
    """The fastest memory that the decoder can use.

    Args:
        graphs: on CUDA, capture the step into a graph and replay it.
    """
    if not can_preallocate(lm):
        return Growing(lm, prefill)
    cuda = prefill.inputs_embeds.is_cuda
    replay = cuda and graphs and not torch.is_autocast_enabled("cuda")
    return Preallocated(lm, prefill, capture=capture_cuda if replay else None)


def can_preallocate(lm: PreTrainedModel) -> bool:
    """Whether every layer attends to all that came before, through a kernel that takes a mask."""
    layers = DynamicCache(config=lm.config).layers
    return (
        lm.config._attn_implementation in ("sdpa", "eager", PACKED)
        and len(layers) > 0
        and all(type(layer) is DynamicLayer for layer in layers)
    )


class Growing:
    """Any decoder, through transformers' own cache."""

    def __init__(self, lm: PreTrainedModel, prefill: Prefill) -> None:
        self._lm, self._prefill = lm, prefill
        self._cache = DynamicCache(config=lm.config)
        self._mask, self._places = prefill.attention_mask, prefill.position_ids[:, -1:]

    def first(self) -> Tensor:
        return self._run(
            inputs_embeds=self._prefill.inputs_embeds,
            position_ids=self._prefill.position_ids,
            logits_to_keep=_last(self._mask),
        )

    def next(self, tokens: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._places = self._places + 1
        return self._run(input_ids=tokens.unsqueeze(1), position_ids=self._places)

    def worth(self, live: int, held: int) -> bool:
        return live < held

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._places = self._mask[rows], self._places[rows]

    def _run(self, **inputs: Tensor) -> Tensor:
        out: Any = self._lm(
            **inputs,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


class Preallocated:
    """Buffers that are written in place.

    Args:
        lm: for which ``can_preallocate`` holds.
        prefill: left-padded.
        capture: makes of a function of fixed inputs one that replays it. None: attention reads
            only the places that are filled, and nothing is replayed. Else shapes are fixed: it
            reads all places, and those not yet filled are masked.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        prefill: Prefill,
        capture: Callable[[Run], Run] | None = None,
    ) -> None:
        self._lm, self._prefill, self._capture = lm, prefill, capture
        rows, self._length = prefill.attention_mask.shape
        device = prefill.attention_mask.device
        self._layers = [Buffers(capture is not None) for _ in DynamicCache(config=lm.config).layers]
        self._cache = Cache(layers=list(self._layers))
        self._places = prefill.position_ids[:, -1:] + 1  # [R, 1] of the token that comes next
        self._tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._slot = torch.full((1,), self._length, device=device)  # where that token is kept
        self._seen = self._widened(prefill.attention_mask.bool()[:, None, None])  # [R, 1, 1, C]
        self._replay: Run | None = None
        self._steps = 0  # of the present shape

    def first(self) -> Tensor:
        out: Any = self._lm(
            inputs_embeds=self._prefill.inputs_embeds,
            position_ids=self._prefill.position_ids,
            attention_mask=self._prefill.attention_mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=_last(self._prefill.attention_mask),
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def next(self, tokens: Tensor) -> Tensor:
        if self._length == self._seen.shape[-1]:
            self._seen = self._widened(self._seen)
            self._reshaped()
        for layer in self._layers:
            layer.prepare(self._length, self._seen.shape[-1], self._slot)
        self._tokens.copy_(tokens.unsqueeze(1))
        self._seen[..., self._length] = True
        logits = self._step()
        self._length += 1
        self._places += 1
        self._slot += 1
        return logits

    def worth(self, live: int, held: int) -> bool:
        # A new shape has to be captured anew; without that, only the copy counts.
        return live <= held // 2 if self._capture else 8 * live <= 7 * held

    def keep(self, rows: Tensor) -> None:
        for layer in self._layers:
            layer.keep(rows, self._length)
        self._tokens, self._places = self._tokens[rows], self._places[rows]
        self._seen = self._seen[rows]
        self._reshaped()

    def _reshaped(self) -> None:
        self._replay, self._steps = None, 0

    def _widened(self, seen: Tensor) -> Tensor:
        return torch.cat([seen, seen.new_zeros(*seen.shape[:-1], ROOM)], dim=-1)

    def _step(self) -> Tensor:
        if self._capture is None:
            return self._run()
        if self._steps == EAGER_STEPS:
            self._replay = self._capture(self._run)
        self._steps += 1
        return self._run() if self._replay is None else self._replay()

    def _run(self) -> Tensor:
        seen = self._seen if self._capture else self._seen[..., : self._length + 1]
        if self._lm.config._attn_implementation == "eager":  # adds its mask
            hidden = torch.finfo(self._lm.dtype).min
            seen = torch.zeros_like(seen, dtype=self._lm.dtype).masked_fill(~seen, hidden)
        out: Any = self._lm(
            input_ids=self._tokens,
            position_ids=self._places,
            attention_mask=seen,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


def _last(mask: Tensor) -> Tensor:
    """The last place of rows [R, C], as an index.

    The slice that ``logits_to_keep=1`` takes is not contiguous: on a CPU its product with the head
    then goes row by row, in bfloat16 with a copy of the head for each.
    """
    return torch.tensor([mask.shape[1] - 1], device=mask.device)
