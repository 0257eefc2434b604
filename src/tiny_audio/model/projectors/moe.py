"""Mixture of experts: a shared expert for every frame, and a few routed ones for each.

Sparse routing, load-balance loss and router jitter are from Switch Transformers (arXiv 2101.03961,
equations 4 to 6), the router z-loss from ST-MoE (arXiv 2202.08906, equation 5), the shared expert
from DeepSeekMoE (arXiv 2401.06066). N routed experts, k of them for each token, M real audio tokens
of a batch, I stride * D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_audio.errors import ConfigError
from tiny_audio.model.projectors.base import Projector, RMSNorm, length_mask, stack_frames, wide


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """Load-balance loss N * sum_i f_i * P_i; 1 where the load is even, N where one expert has all.

    f_i is expert i's fraction of the M * k assignments that were really made, P_i its mean
    probability. Both are needed: a router can be even in the mean and yet always pick the same
    experts. Gradient flows through P only. ``probabilities``: [M, N] router softmax over real
    tokens; ``chosen``: [M, k] experts that were picked.
    """
    n = probabilities.shape[1]
    counts = torch.bincount(chosen.flatten(), minlength=n)
    fractions = counts.to(probabilities.dtype) / max(chosen.numel(), 1)
    means = probabilities.sum(0) / max(len(probabilities), 1)
    return n * (fractions * means).sum()


def z_loss(logits: Tensor) -> Tensor:
    """Mean squared log-partition of router logits [M, N]; keeps them from growing."""
    return logits.logsumexp(-1).square().sum() / max(len(logits), 1)


class Expert(nn.Module):
    """Linear, GELU, Linear; no biases."""

    def __init__(self, d_in: int, hidden: int, d_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(d_in, hidden, bias=False)
        self.linear_2 = nn.Linear(hidden, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[M, I] -> [M, W]."""
        out: Tensor = self.linear_2(F.gelu(self.linear_1(x)))
        return out


class Moe(Projector):
    """Frame stacking, shared expert plus top-k routed experts, RMSNorm. Only real audio tokens are
    routed, and each expert computes its own alone. The weights of a token's experts sum to 1. In
    training the router's input is multiplied by U(1 - jitter, 1 + jitter)."""

    def __init__(
        self,
        d_encoder: int,
        d_decoder: int,
        output_rms: float,
        *,
        stride: int,
        experts: int,
        top_k: int,
        hidden: int,
        balance_weight: float,
        z_weight: float,
        jitter: float,
    ) -> None:
        sizes = {"stride": stride, "experts": experts, "top_k": top_k, "hidden": hidden}
        super().__init__(d_encoder, d_decoder, **sizes)
        if top_k > experts:
            raise ConfigError(
                f"model.projector.moe.top_k is {top_k}, more than the {experts} experts there are."
            )
        self.stride, self.top_k, self.jitter = stride, top_k, jitter
        self.balance_weight, self.z_weight = balance_weight, z_weight
        d_in = stride * d_encoder
        self.router = nn.Linear(d_in, experts, bias=False)
        self.shared = Expert(d_in, hidden, d_decoder)
        self.experts = nn.ModuleList(Expert(d_in, hidden, d_decoder) for _ in range(experts))
        self.norm = RMSNorm(d_decoder, gain=output_rms)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """[B, E, D], [B] -> [B, A, W]."""
        x = self._compute_dtype(frames, self.router.weight)
        x = stack_frames(x, lengths, self.stride)  # [B, A, I]
        real = length_mask(self.out_len(lengths), x.shape[1])  # [B, A]
        x = x[real]  # [M, I]
        weights, chosen = self._route(x)  # [M, k] each
        y = self.norm(self._dispatch(x, weights, chosen))  # [M, W]
        tokens = y.new_zeros(*real.shape, self.d_decoder).masked_scatter(real[..., None], y)
        return self._finish(tokens, lengths, frames.dtype)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pick experts for x [M, I]: weights [M, k] that sum to 1, and expert numbers [M, k]. The
        router runs in float32 whatever the rest runs in: its softmax decides, and half precision
        would let rounding decide."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(wide(x.dtype))
            if self.training and self.jitter > 0:
                x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
            logits = F.linear(x, self.router.weight.to(x.dtype))  # [M, N]
            probabilities = logits.softmax(-1)
            top, chosen = probabilities.topk(self.top_k, dim=-1)
            balance, z = balance_loss(probabilities, chosen), z_loss(logits)
        self.aux_loss = self.balance_weight * balance + self.z_weight * z if self.training else None
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        self._measured = {
            "share": counts / counts.sum().clamp(min=1),
            "balance_loss": balance.detach(),
            "z_loss": z.detach(),
        }
        return top / top.sum(-1, keepdim=True), chosen

    def _dispatch(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Shared expert plus the weighted chosen ones: [M, I] -> [M, W]. Assignments are sorted by
        expert, so that each expert sees one contiguous slice. An expert with an empty slice still
        takes part, and its gradient is zero rather than absent."""
        order = chosen.flatten().argsort(stable=True)  # [M * k] assignments, by expert
        rows = order // self.top_k  # the token of each
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        slices = torch.split(x.index_select(0, rows), counts)
        routed = torch.cat([e(part) for e, part in zip(self.experts, slices, strict=True)])
        routed = routed * weights.flatten()[order][:, None]
        shared: Tensor = self.shared(x)
        return shared.index_add(0, rows, routed.to(shared.dtype))
