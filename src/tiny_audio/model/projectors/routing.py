"""Measures of a router, shared by the mixtures: who gets the frames, and how decidedly.

N is the number of experts (or adapters), M the number of real audio tokens of a batch.
"""

from __future__ import annotations

import math

from torch import Tensor

DEAD_BELOW = 0.05  # of an even share: an expert that gets less learns next to nothing


def router_stats(probabilities: Tensor, shares: Tensor, n_tokens: Tensor) -> dict[str, Tensor]:
    """Describe one batch's routing.

    Args:
        probabilities: [M, N] router softmax; rows that are no real token are all zero.
        shares: [N] share of the work that each expert got; sums to 1.
        n_tokens: number of real tokens (at least 1).

    Returns:
        ``share`` [N]; ``dead_experts``; ``router_entropy``: mean entropy of one token's softmax
        in nats, and ``router_entropy_ratio``, its part of ln N; ``share_entropy_ratio``: entropy
        of the shares as part of ln N, 1 where the load is even and 0 where one expert has it all.
    """
    n = shares.numel()
    most = math.log(n) if n > 1 else 1.0
    per_token = -(probabilities * probabilities.clamp(min=1e-20).log()).sum(-1)
    entropy = per_token.sum() / n_tokens
    share_entropy = -(shares * shares.clamp(min=1e-20).log()).sum()
    return {
        "share": shares,
        "dead_experts": (shares < DEAD_BELOW / n).sum(),
        "router_entropy": entropy,
        "router_entropy_ratio": entropy / most,
        "share_entropy_ratio": share_entropy / most,
    }
