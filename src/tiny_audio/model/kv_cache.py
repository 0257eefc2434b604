"""What the decoder has read so far: keys and values, appended or in a cache of fixed size.

Shapes: R rows that are held, T prompt tokens, C positions of a fixed cache, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import Cache, DynamicLayer

from tiny_audio.errors import first_line
from tiny_audio.model.attention import OBSERVED, AudioAttention
from tiny_audio.model.batch import Prefill

Run = Callable[[], Tensor]

logger = logging.getLogger(__name__)

ROOM = 64  # new tokens that a fixed cache has positions for before it grows
EAGER_STEPS = 3  # of one shape before it is captured: capturing costs about as much


def sees_all(lm: PreTrainedModel) -> bool:
    """Whether every layer attends to all that came before."""
    layers = DynamicCache(config=lm.config).layers
    return len(layers) > 0 and all(type(layer) is DynamicLayer for layer in layers)


def can_capture(lm: PreTrainedModel) -> bool:
    """Whether every layer does, and through a kernel that takes a mask."""
    return sees_all(lm) and lm.config._attn_implementation in ("sdpa", OBSERVED)


class Growing:
    """Decode one token for every row that is held; keys and values are appended for each."""

    worth_keeping = 1.0  # rows are dropped where at most this share of them is left

    def __init__(
        self, lm: PreTrainedModel, prefill: Prefill, attention: AudioAttention | None = None
    ) -> None:
        self._lm, self._prefill, self._attention = lm, prefill, attention
        self._cache: Cache = DynamicCache(config=lm.config)
        self._mask = prefill.attention_mask
        self._positions = prefill.position_ids[:, -1:] + 1  # [R, 1] of the token that comes next

    def first(self) -> Tensor:
        """Read the prompt; logits [R, V] of the first new token."""
        # By index: the slice of logits_to_keep=1 is not contiguous, so that on a CPU its product
        # with the head would go row by row, in bfloat16 with a copy of the head for each.
        embeds, mask, positions = self._prefill
        last = torch.tensor([mask.shape[1] - 1], device=mask.device)
        return self._logits(mask, inputs_embeds=embeds, position_ids=positions, logits_to_keep=last)

    def next(self, tokens: Tensor) -> Tensor:
        """Read one token [R] for each row; logits [R, V] of the one after it, valid until the
        next call."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        logits = self._logits(
            self._mask, input_ids=tokens.unsqueeze(1), position_ids=self._positions
        )
        self._positions = self._positions + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, in this order (ascending)."""
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        if self._attention is not None:
            self._attention.keep(rows)

    def undo(self, counts: Mapping[int, int]) -> None:
        """Forget the last tokens of some rows, so many of each: nobody looks at them any more."""
        for row, count in counts.items():
            self._mask[row, ..., self._mask.shape[-1] - count :] = 0
            self._positions[row] -= count

    def observe(self, attention: AudioAttention) -> None:
        """Show the attention to the audio from the next step on."""
        self._attention = attention

    def _logits(self, mask: Tensor, **kwargs: Any) -> Tensor:
        kwargs["attention_mask"] = mask
        if self._attention is not None:
            kwargs["audio_attention"] = self._attention
            self._attention.weights.zero_()
        out: Any = self._lm(**kwargs, past_key_values=self._cache, use_cache=True)
        return cast(Tensor, out.logits[:, -1])


class Captured(Growing):
    """The same in a cache of fixed size, so that a whole step can be captured and replayed. All its
    positions are read, those not yet filled are masked. ``capture`` runs a function of fixed inputs
    once and returns one that replays it."""

    worth_keeping = 0.5  # a new shape has to be captured anew

    def __init__(
        self,
        lm: PreTrainedModel,
        prefill: Prefill,
        capture: Callable[[Run], Run],
        attention: AudioAttention | None = None,
    ) -> None:
        super().__init__(lm, prefill, attention)
        self._capture = capture
        self._length = self._mask.shape[1]
        self._cache = StaticCache(lm.config, max_cache_len=self._length + ROOM)
        self._layers: list[Any] = list(self._cache.layers)
        self._mask = pad(self._mask.bool(), (0, ROOM))[:, None, None]  # [R, 1, 1, C]
        self._tokens = torch.zeros_like(self._positions)
        self._replay: Run = self._run
        self._count = 0  # steps of this shape

    def next(self, tokens: Tensor) -> Tensor:
        if self._length == self._mask.shape[-1]:
            self._grow()
        self._tokens.copy_(tokens.unsqueeze(1))
        self._mask[..., self._length] = True
        if self._count == EAGER_STEPS:
            self._replay = self._capture(self._run)
            for layer in self._layers:
                layer.cumulative_length.sub_(1)  # that run is made again
        self._count += 1
        logits = self._replay()
        self._length += 1
        self._positions.add_(1)
        return logits

    def keep(self, rows: Tensor) -> None:
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self._tokens, self._positions = self._tokens[rows], self._positions[rows]
        self._mask = self._mask[rows]
        if self._attention is not None:
            self._attention.keep(rows)
        self._new_shape()

    def undo(self, counts: Mapping[int, int]) -> None:
        for row, count in counts.items():
            self._mask[row, ..., self._length - count : self._length] = False
            self._positions[row] -= count

    def observe(self, attention: AudioAttention) -> None:
        super().observe(attention)
        self._new_shape()

    def _grow(self) -> None:
        for layer in self._layers:
            layer.keys = pad(layer.keys, (0, 0, 0, ROOM))
            layer.values = pad(layer.values, (0, 0, 0, ROOM))
            layer.max_cache_len += ROOM
        self._mask = pad(self._mask, (0, ROOM))
        self._new_shape()

    def _new_shape(self) -> None:
        self._replay, self._count = self._run, 0

    def _run(self) -> Tensor:
        return self._logits(self._mask, input_ids=self._tokens, position_ids=self._positions)


def capture_cuda(run: Run) -> Run:
    """Capture a function whose inputs stay where they are into a CUDA graph, which launches a whole
    decoding step at once. One that cannot be captured is called as it is, with a warning."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is set up on first use must not be captured
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            logits = run()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        logger.warning("No CUDA graph for decoding: %s", first_line(error))
        return run

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay
