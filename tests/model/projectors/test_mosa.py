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
    assert (tokens[1, 2] == 0).all()


def test_has_no_auxiliary_loss(make):
    projector = make("mosa").train()
    projector(torch.randn(1, 14, D), torch.tensor([14]))
    assert projector.aux_loss is None


def test_statistics_see_a_dead_adapter_and_ignore_padding(make):
    projector = make("mosa")
    with torch.no_grad():
        projector.router[2].weight.zero_()
        projector.router[2].bias.copy_(torch.tensor([0.0, 0.0, -20.0]))
    frames = torch.randn(2, 40, D)
    projector(frames, torch.tensor([40, 4]))
    stats = projector.stats()
    assert [round(stats[f"share_{i}"], 4) for i in range(3)] == [0.5, 0.5, 0.0]
    assert stats["dead_experts"] == 1
    assert abs(stats["router_entropy"] - 0.6931) < 1e-3  # ln 2
    assert abs(stats["router_entropy_ratio"] - 0.6309) < 1e-3  # ln 2 / ln 3
    projector(frames[:1], torch.tensor([40]))
    alone = projector.stats()
    projector(torch.nn.functional.pad(frames[:1], (0, 0, 0, 400)), torch.tensor([40]))
    assert projector.stats() == pytest.approx(alone, rel=1e-5)
