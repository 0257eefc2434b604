"""Mixture of Simple Adapters against adapter-by-adapter loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

D, W = 12, 20


def test_equals_one_adapter_after_the_other(make):
    projector = make("mosa").double()
    torch.nn.init.normal_(projector.norm.weight)
    torch.nn.init.normal_(projector.router[2].weight)  # uneven blends
    state = projector.state_dict()
    frames = torch.randn(2, 14, D, dtype=torch.float64)
    tokens = projector(frames, torch.tensor([14, 9]))
    blends = []
    for b, a in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        x = frames[b, 4 * a : 4 * a + 4].flatten()
        g = F.gelu(state["router.0.weight"] @ x + state["router.0.bias"])
        g = torch.exp(state["router.2.weight"] @ g + state["router.2.bias"])
        blend = g / g.sum()
        y = torch.zeros(W, dtype=torch.float64)
        for i in range(3):
            h = F.gelu(state["weight_1"][i] @ x + state["bias_1"][i])
            y += blend[i] * (state["weight_2"][i].T @ h + state["bias_2"][i])
        y = y / (y.square().mean() + 1e-6).sqrt() * state["norm.weight"]
        torch.testing.assert_close(tokens[b, a], y)
        blends.append(blend)
    assert (tokens[1, 2] == 0).all()
    shares = [projector.stats()[f"share_{i}"] for i in range(3)]
    assert shares == pytest.approx(torch.stack(blends).mean(0).tolist())
