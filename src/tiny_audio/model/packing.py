"""`model.attn_implementation=packed`: clips one after another instead of side by side.

A batch [B, T, W] becomes one row [1, N, W] that holds its N real positions and no padding, so that
no layer computes on any. Attention alone must know where a clip ends. On CUDA that is PyTorch's
variable-length kernel (bf16 or fp16, Ampere and later); elsewhere each clip attends by itself, by
``scaled_dot_product_attention``. Calls that bring no packing go to transformers' own ``sdpa``.

Shapes: B clips, T positions of the longest, N positions in all, H heads, K heads of keys, d size
of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

try:
    from torch.nn.attention import varlen
except ImportError:  # a build without it
    varlen = None  # type: ignore[assignment]

PACKED = "packed"  # the name of the implementation


@dataclass(frozen=True)
class Packing:
    """Where the positions of a batch lie, side by side and packed."""

    bounds: tuple[int, ...]  # B + 1: clip b is bounds[b]:bounds[b + 1] of the N
    longest: int
    width: int  # T
    starts: Tensor  # [B + 1] int32, the bounds on the device
    places: Tensor  # [N] among the B * T positions side by side
    position_ids: Tensor  # [1, N] counted from each clip's first

    @classmethod
    def of(cls, lengths: Sequence[int], width: int, device: torch.device) -> Packing:
        """Of clips with so many positions each, padded on the right to ``width``."""
        bounds = (0, *accumulate(lengths))
        counts = torch.tensor(lengths)
        before = torch.tensor(bounds[:-1])
        nth = torch.arange(bounds[-1]) - before.repeat_interleave(counts)
        places = nth + (torch.arange(len(counts)) * width).repeat_interleave(counts)
        return cls(
            bounds,
            max(lengths),
            width,
            torch.tensor(bounds, dtype=torch.int32).to(device, non_blocking=True),
            places.to(device, non_blocking=True),
            nth.unsqueeze(0).to(device, non_blocking=True),
        )

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, W] to [1, N, W]."""
        return x.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def unpack(self, x: Tensor) -> Tensor:
        """[1, N, W] to [B, T, W], zero beyond each clip."""
        clips = len(self.bounds) - 1
        out = x.new_zeros(clips * self.width, x.shape[-1]).index_copy(0, self.places, x[0])
        return out.view(clips, self.width, x.shape[-1])

    def find(self, places: Tensor) -> Tensor:
        """Positions side by side [n], each inside its clip, to positions among the N."""
        rows = torch.div(places, self.width, rounding_mode="floor")
        found: Tensor = self.starts.index_select(0, rows) + places - rows * self.width
        return found


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    packing: Packing | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of a layer of transformers, over query [1, H, N, d] and keys [1, K, N, d]."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    query, key = query.to(value.dtype), key.to(value.dtype)
    attend = _by_kernel if _has_kernel(value) else _clip_by_clip
    causal = bool(getattr(module, "is_causal", False))
    return attend(query, key, value, packing, causal, rest.get("scaling")), None


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, causal: bool, scale: float | None
) -> Tensor:
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, H, d]
    options: dict[str, Any] = {}
    kernel: Any = varlen.varlen_attn
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in inspect.signature(kernel).parameters:
            options["enable_gqa"] = True
        else:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    out: Tensor = kernel(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        packing.starts,
        packing.starts,
        packing.longest,
        packing.longest,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        **options,
    )
    return out.unsqueeze(0)  # [1, N, H, d]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # else a program for each batch
def _clip_by_clip(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, causal: bool, scale: float | None
) -> Tensor:
    outs = [
        scaled_dot_product_attention(
            query[:, :, first:last],
            key[:, :, first:last],
            value[:, :, first:last],
            is_causal=causal,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for first, last in pairwise(packing.bounds)
        if last > first
    ]
    out = torch.cat(outs, dim=2) if outs else query
    return out.transpose(1, 2)


def _has_kernel(value: Tensor) -> bool:
    """Whether PyTorch's variable-length kernel takes such tensors."""
    return (
        varlen is not None
        and value.is_cuda
        and value.dtype in (torch.bfloat16, torch.float16)
        and value.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(value.device) >= (8, 0)
    )


@torch.no_grad()
def can_pack(lm: Any) -> bool:
    """Whether a decoder gives the same for two rows packed as for each row alone.

    Families differ in how they pass words on to their attention and in what it does beside
    (sliding windows, caps), so it is tried.
    """
    layer = lm.get_input_embeddings()
    device = layer.weight.device
    if device.type == "meta":
        return True  # a model without numbers
    ids = torch.arange(7, device=device)
    rows = [layer(ids[:4]).unsqueeze(0), layer(ids[4:]).unsqueeze(0)]
    alone = [lm.base_model(inputs_embeds=x, use_cache=False).last_hidden_state for x in rows]
    packing = Packing.of([4, 3], 4, device)
    try:
        both = lm.base_model(**packed_inputs(torch.cat(rows, dim=1), packing)).last_hidden_state
    except (TypeError, ValueError, RuntimeError):
        return False
    wanted = torch.cat(alone, dim=1).float()
    return bool((both.float() - wanted).norm() < 0.02 * wanted.norm())  # bf16 rounds to 0.004


def packed_inputs(embeds: Tensor, packing: Packing) -> dict[str, Any]:
    """What a decoder is called with for a packed row [1, N, W].

    The mask is one that transformers takes for finished, so that it makes none of N times N.
    """
    return {
        "inputs_embeds": embeds,
        "position_ids": packing.position_ids,
        "attention_mask": embeds.new_zeros(1, 1, 1, 1),
        "packing": packing,
        "use_cache": False,
    }


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, sdpa_mask)
