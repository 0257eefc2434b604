"""Keys and values of one decoder layer in buffers that are written in place.

Shapes: R rows, H key-value heads, C places, K width of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

ROOM = 64  # new tokens that buffers have places for before they are made anew


class Buffers(CacheLayerMixin):
    """One layer's keys and values [R, H, C, K], of which the first places are filled."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fixed = fixed  # the step's shapes stay: what is read is all of it
        self._length = 0
        self._slot: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self._grow(key_states, value_states, key_states.shape[2] + ROOM)
        self.is_initialized = True

    def prepare(self, length: int, places: int, slot: Tensor) -> None:
        """Before a step: how many places are filled, and how many there must be."""
        keys, values = self._both()
        if keys.shape[2] < places:
            self._grow(keys, values, places)
        self._length, self._slot = length, slot

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:  # the prompt
            self.lazy_initialization(key_states, value_states)
            self._length = key_states.shape[2]
            return key_states, value_states
        keys, values = self._both()
        if self._fixed:
            assert self._slot is not None
            keys.index_copy_(2, self._slot, key_states)
            values.index_copy_(2, self._slot, value_states)
            return keys, values
        end = self._length + 1
        keys[:, :, self._length : end] = key_states
        values[:, :, self._length : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor, length: int) -> None:
        """Move the rows to the front and look at no others."""
        keys, values = self._both()
        for buffer in (keys, values):
            buffer[: len(rows), :, :length] = buffer[rows, :, :length]
        self.keys, self.values = keys[: len(rows)], values[: len(rows)]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        return self._length

    def get_max_length(self) -> int:
        return -1

    def _both(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _grow(self, keys: Tensor, values: Tensor, places: int) -> None:
        self.keys, self.values = _extended(keys, places), _extended(values, places)


def _extended(old: Tensor, places: int) -> Tensor:
    rows, heads, filled, width = old.shape
    new = old.new_zeros(rows, heads, places, width)  # zeros: what is masked must be finite
    new[:, :, :filled] = old
    return new
