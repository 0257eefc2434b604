"""Weights in 8 bits, for transcription: less memory, and less to read for every token.

Weight-only, one scale for each output (absmax), computed in the dtype of the weights that are
replaced. In float32 weights are widened as they are used, which saves memory, not time, and a clip
gets the same text alone and in a batch. In bfloat16 on a CPU that multiplies it PyTorch's own
kernel saves time too; how its sums round depends on the batch, so now and then a near tie falls
the other way. A quantised model does not learn and is not saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.model.speech import SpeechModel

_FEW_ROWS = 16  # up to so many, PyTorch's 8-bit kernel outruns widening and multiplying: measured


class Int8Linear(nn.Module):
    """A linear layer whose weights [O, I] are 8-bit integers with one scale for each output."""

    weight: Tensor  # [O, I] int8
    scale: Tensor  # [O] float32
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # In float32 PyTorch's kernel is slower than none.
        bf16_on_cpu = weight.device.type == "cpu" and weight.dtype is torch.bfloat16
        self.kernel = bf16_on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        scale = weight.abs().amax(dim=1).float().clamp(min=1e-12) / 127
        # 8,192 rows at a time: no second table in full width.
        parts = zip(weight.split(8192), scale.split(8192), strict=True)
        rounded = [(w.float() / s.unsqueeze(1)).round().to(torch.int8) for w, s in parts]
        self.register_buffer("scale", scale)
        self.register_buffer("weight", torch.cat(rounded))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O], in the dtype of ``x``."""
        rows = x.reshape(-1, x.shape[-1])
        scale = self.scale.to(x.dtype)
        if self.kernel and x.dtype is torch.bfloat16 and len(rows) <= _FEW_ROWS:
            out = torch._weight_int8pack_mm(rows, self.weight, scale)
        else:
            out = linear(rows, self.weight.to(x.dtype)) * scale
        out = out.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class Int8Embedding(nn.Module):
    """An embedding table [V, W] that is the 8-bit weight of the decoder's head."""

    def __init__(self, head: Int8Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.head, self.dtype = head, dtype

    @property
    def weight(self) -> Tensor:
        """The table, widened."""
        return (self.head.weight * self.head.scale.unsqueeze(1)).to(self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] to embeddings [..., W]."""
        scale = self.head.scale[ids].unsqueeze(-1)
        return (self.head.weight[ids] * scale).to(self.dtype)


@torch.no_grad()
def quantise(model: SpeechModel, kind: str | None) -> SpeechModel:
    """Replace the linear layers of encoder and decoder, in place; projector and adapters stay.
    ``kind``: ``int8``, or None, which changes nothing. Raises ConfigError for another, ModelError
    where the model is in training."""
    if kind is None:
        return model
    if kind != "int8":
        raise ConfigError(f"quantise: '{kind}' is unknown; use int8")
    if model.training:
        raise ModelError("a model that learns cannot be quantised: call .eval() first")
    lm = model.causal_lm
    head, table = lm.get_output_embeddings(), lm.get_input_embeddings()
    if isinstance(head, nn.Linear):
        small = Int8Linear(head.weight, head.bias)
        lm.set_output_embeddings(small)
        if type(table) is nn.Embedding and head.weight is table.weight:  # a subclass may scale
            lm.set_input_embeddings(Int8Embedding(small, head.weight.dtype))
    for path, owner in [*model.encoder.named_modules(), *lm.named_modules()]:
        for name, layer in list(owner.named_children()):
            if isinstance(layer, nn.Linear) and "lora_" not in f"{path}.{name}":
                setattr(owner, name, Int8Linear(layer.weight, layer.bias))
    return model
