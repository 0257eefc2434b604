"""How much adapters change their layers, in how many directions, and which change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from tiny_audio.model.lora import ADAPTER


@dataclass(frozen=True)
class AdapterRow:
    """One adapter: how much it changes its layer, and in how many directions."""

    module: str
    rank: int
    norm: float  # Frobenius norm of scale * B @ A
    relative_norm: float  # the same over the norm of the layer's own weight
    effective_rank: float  # exp of the entropy of the singular values' shares; 0 for a zero adapter
    is_zero: bool


@torch.no_grad()
def lora_report(model: nn.Module) -> list[AdapterRow]:
    """Measure every adapter in a model, in the order of its layers; empty where there is none.

    The effective rank is that of Roy and Vetterli (2007): 1 where the update is a single
    direction, r where all r directions weigh the same. The product [out, in] is never formed:
    its singular values are those of the small product of the two factors' triangles.
    """
    rows = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLinear) or ADAPTER not in module.lora_A:
            continue
        a = cast(Tensor, module.lora_A[ADAPTER].weight).float()  # [r, in]
        b = cast(Tensor, module.lora_B[ADAPTER].weight).float()  # [out, r]
        core = torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T
        singular = torch.linalg.svdvals(core) * module.scaling[ADAPTER]
        norm = float(singular.norm())
        own = float(cast(Tensor, module.get_base_layer().weight).float().norm())
        shares = singular / singular.sum().clamp(min=1e-30)
        entropy = -(shares * shares.clamp(min=1e-30).log()).sum()
        rows.append(
            AdapterRow(
                module=name.removeprefix("base_model.model."),
                rank=len(a),
                norm=norm,
                relative_norm=norm / own if own else float("inf"),
                effective_rank=float(entropy.exp()) if norm else 0.0,
                is_zero=norm == 0,
            )
        )
    return rows
