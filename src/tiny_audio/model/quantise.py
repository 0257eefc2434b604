"""Weights in 8 or 4 bits, for transcription: less memory, and less to read for every token.

Weight-only: what flows between the layers stays as it is. 8 bits: one scale for each output
(absmax). 4 bits: a scale and an offset for each 32 weights, of those tried the ones with the least
squared error. The decoder's embedding table and its head, which most decoders share, take 8 bits
in both, as 4 cost too much there. A quantised model does not learn and is not saved.

The layers compute in the dtype of the weights that they replace. In float32 the weights are widened
as they are used, which saves memory, not time, and a clip gets the same text alone and in a batch.
In bfloat16 on a CPU that multiplies it they go through PyTorch's own kernels, which save time too;
but how its sums round depends on the batch, so that now and then a near tie falls the other way.

Shapes: R rows, I inputs, O outputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.model.speech import SpeechModel

KINDS = ("int8", "int4")
_GROUP = 32  # weights that share a scale in 4 bits
_FEW_ROWS = 16  # up to so many, PyTorch's 8-bit kernel outruns widening and multiplying: measured
_CLIPPINGS = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a group's range, tried for the least error


class Int8Linear(nn.Module):
    """A linear layer whose weights are 8-bit integers with one scale for each output."""

    weight: Tensor  # [O, I] int8
    scale: Tensor  # [O] float32
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.kernels = _has_kernels(weight)
        scale = weight.abs().amax(dim=1).float().clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", _rounded(weight, scale))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O], in the dtype of ``x``."""
        rows = x.reshape(-1, x.shape[-1])
        scale = self.scale.to(x.dtype)
        if self.kernels and x.dtype is torch.bfloat16 and len(rows) <= _FEW_ROWS:
            out = torch._weight_int8pack_mm(rows, self.weight, scale)
        else:
            out = linear(rows, self.weight.to(x.dtype)) * scale
        out = out.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class Int8Embedding(nn.Module):
    """An embedding table that is the 8-bit weight of the decoder's head."""

    def __init__(self, head: Int8Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.head, self.dtype = head, dtype

    @property
    def weight(self) -> Tensor:
        """The table [V, W], widened."""
        return (self.head.weight * self.head.scale.unsqueeze(1)).to(self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] to embeddings [..., W]."""
        scale = self.head.scale[ids].unsqueeze(-1)
        return (self.head.weight[ids] * scale).to(self.dtype)


class Int4Linear(nn.Module):
    """A linear layer whose weights are 4-bit integers, with scale and offset for each group."""

    packed: Tensor
    scale: Tensor  # [O, G]
    lowest: Tensor  # [O, G] what the integer 0 stands for
    grid: Tensor  # [G, O, 2] scale and what 8 stands for, as PyTorch's kernel reads them
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.kernels = _has_kernels(weight)
        integers, scale, middle = _fit_groups(weight.float())  # [O, G, 32], [O, G], [O, G]
        integers = integers.flatten(1)
        if self.kernels:
            packed = torch._convert_weight_to_int4pack_for_cpu(integers.int(), 1)
            grid = torch.stack([scale, middle], dim=-1).transpose(0, 1).contiguous()
            self.register_buffer("grid", grid.to(weight.dtype))
        else:
            packed = integers[:, ::2] << 4 | integers[:, 1::2]
            self.register_buffer("scale", scale.to(weight.dtype))
            self.register_buffer("lowest", (middle - 8 * scale).to(weight.dtype))
        self.register_buffer("packed", packed)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O], in the dtype of ``x``."""
        if self.kernels:
            rows = x.reshape(-1, x.shape[-1]).to(self.grid.dtype).contiguous()
            out = torch._weight_int4pack_mm_for_cpu(rows, self.packed, _GROUP, self.grid)
            out = out.to(x.dtype).view(*x.shape[:-1], -1)
        else:
            out = linear(x, self._widened().to(x.dtype))
        return out if self.bias is None else out + self.bias

    def _widened(self) -> Tensor:
        integers = torch.stack([self.packed >> 4, self.packed & 15], dim=-1).flatten(1)
        widened: Tensor = integers.to(self.scale.dtype).unflatten(1, (-1, _GROUP))  # [O, G, 32]
        return widened.mul_(self.scale.unsqueeze(-1)).add_(self.lowest.unsqueeze(-1)).flatten(1)


@torch.no_grad()
def quantise(model: SpeechModel, kind: str | None) -> SpeechModel:
    """Replace the linear layers of encoder and decoder, in place; the projector stays as it is.

    Args:
        model: on the device where it will work.
        kind: ``int8``, ``int4`` or None, which changes nothing.

    Raises:
        ConfigError: there is no such kind.
        ModelError: something in the model learns.
    """
    if kind is None:
        return model
    if kind not in KINDS:
        raise ConfigError(f"quantise: '{kind}' is unknown; use one of {list(KINDS)}")
    if model.training:
        raise ModelError("a model that learns cannot be quantised: call .eval() first")
    lm = model.causal_lm
    head = lm.get_output_embeddings()
    table = lm.get_input_embeddings()
    if isinstance(head, nn.Linear):
        small = Int8Linear(head.weight, head.bias)
        shared = isinstance(table, nn.Embedding) and head.weight is table.weight
        dtype = head.weight.dtype
        lm.set_output_embeddings(small)
        if shared and type(table) is nn.Embedding:  # a subclass may scale what it looks up
            lm.set_input_embeddings(Int8Embedding(small, dtype))
    for part in (model.encoder, lm):
        for parent, name, layer in list(_linears(part)):
            setattr(parent, name, _quantised(layer, kind))
    return model


def weight_bytes(model: nn.Module) -> int:
    """Memory of all weights, each counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def _quantised(layer: nn.Linear, kind: str) -> nn.Module:
    fits = layer.in_features % _GROUP == 0 and layer.out_features % 16 == 0
    made = Int4Linear if kind == "int4" and fits else Int8Linear
    return made(layer.weight, layer.bias)


def _linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(owner, attribute, layer) of every linear layer that is no adapter."""
    for path, owner in module.named_modules():
        for name, layer in owner.named_children():
            if isinstance(layer, nn.Linear) and "lora_" not in f"{path}.{name}":
                yield owner, name, layer


def _has_kernels(weight: Tensor) -> bool:
    """bfloat16 on a CPU that multiplies it: in float32 PyTorch's kernels are slower than none."""
    on_cpu = weight.device.type == "cpu" and weight.dtype is torch.bfloat16
    return on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _rounded(weight: Tensor, scale: Tensor) -> Tensor:
    """[O, I] in steps of the scale [O], 8,192 rows at a time: no second table in full width."""
    parts = zip(weight.split(8192), scale.split(8192), strict=True)
    return torch.cat([(w.float() / s.unsqueeze(1)).round().to(torch.int8) for w, s in parts])


def _fit_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integers 0 to 15 [O, G, 32] as bytes, scales and middles [O, G] of weights [O, I]."""
    groups = weight.unflatten(1, (-1, _GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    for part in _CLIPPINGS:
        scale = ((high - low) * part / 15).clamp(min=1e-12)
        middle = (high + low) / 2 + scale / 2  # of 0 to 15, 8 lies half a step above the centre
        integers = ((groups - middle) / scale + 8).round().clamp(0, 15)
        error = ((integers - 8) * scale + middle - groups).square().sum(-1, keepdim=True)
        if best is None:
            best = error, integers, scale, middle
        better = error < best[0]
        pairs = zip((error, integers, scale, middle), best, strict=True)
        best = tuple(torch.where(better, new, old) for new, old in pairs)  # type: ignore[assignment]
    assert best is not None
    return best[1].to(torch.uint8), best[2].squeeze(-1), best[3].squeeze(-1)
