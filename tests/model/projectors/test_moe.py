"""Mixture of experts against a token-by-token loop in float64, and its losses' known values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_audio.model.projectors.moe import balance_loss, z_loss

D, W = 12, 20


def expert(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return state[f"{name}.linear_2.weight"] @ F.gelu(state[f"{name}.linear_1.weight"] @ x)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_equals_one_token_after_the_other(make, top_k):
    projector = make("moe", top_k=top_k, jitter=0.0).double().train()
    torch.nn.init.normal_(projector.norm.weight)
    torch.nn.init.normal_(projector.router.weight)
    state = projector.state_dict()
    frames = torch.randn(3, 30, D, dtype=torch.float64)
    lengths = torch.tensor([30, 3, 17])
    tokens = projector(frames, lengths)
    counts, means, z, n_tokens = [0] * 4, [0.0] * 4, 0.0, 0
    for b, n in enumerate(lengths.tolist()):
        for a in range(n // 4):
            x = frames[b, 4 * a : 4 * a + 4].flatten()
            scores = [math.exp(v) for v in (state["router.weight"] @ x).tolist()]
            p = [v / sum(scores) for v in scores]
            best = sorted(range(4), key=lambda i: -p[i])[:top_k]
            y = expert(state, "shared", x)
            for i in best:
                y = y + p[i] / sum(p[j] for j in best) * expert(state, f"experts.{i}", x)
                counts[i] += 1
            y = y / (y.square().mean() + 1e-6).sqrt() * state["norm.weight"]
            torch.testing.assert_close(tokens[b, a], y)
            means = [m + v for m, v in zip(means, p, strict=True)]
            z += math.log(sum(scores)) ** 2
            n_tokens += 1
        assert (tokens[b, n // 4 :] == 0).all()
    shares = [c / sum(counts) for c in counts]
    balance = 4 * sum(f * m / n_tokens for f, m in zip(shares, means, strict=True))
    expected = 0.01 * balance + 0.001 * z / n_tokens
    assert projector.aux_loss.item() == pytest.approx(expected, rel=1e-9)
    stats = projector.stats()
    assert [stats[f"share_{i}"] for i in range(4)] == pytest.approx(shares)
    assert stats["balance_loss"] == pytest.approx(balance)


def test_balance_loss_has_its_known_values():
    n = 4
    even = torch.arange(400)[:, None] % n
    assert balance_loss(torch.full((400, n), 0.25), even).item() == pytest.approx(1.0)
    one_hot = torch.eye(n)[0].repeat(400, 1)
    assert balance_loss(one_hot, torch.zeros(400, 1, dtype=torch.long)).item() == pytest.approx(4.0)
    decided = torch.tensor([0.7, 0.1, 0.1, 0.1]).repeat(400, 1)
    assert balance_loss(decided, decided.topk(1).indices).item() == pytest.approx(2.8)
    pairs = torch.tensor([0.4, 0.4, 0.1, 0.1]).repeat(400, 1)
    assert balance_loss(pairs, pairs.topk(2).indices).item() == pytest.approx(1.6)
    logits = torch.full((7, n), 2.0)
    assert z_loss(logits).item() == pytest.approx((2 + math.log(4)) ** 2)


def test_padding_does_not_count_in_losses_or_statistics(make):
    projector = make("moe", jitter=0.0).train()
    frames = torch.randn(1, 40, D)
    projector(frames, torch.tensor([40]))
    alone, loss = projector.stats(), projector.aux_loss
    padded = torch.cat([F.pad(frames, (0, 0, 0, 300), value=7.0), torch.full((1, 340, D), 9.0)])
    projector(padded, torch.tensor([40, 0]))
    assert projector.stats() == pytest.approx(alone, rel=1e-5)
    assert projector.aux_loss.item() == pytest.approx(loss.item(), rel=1e-5)


def test_an_expert_without_frames_has_no_share_and_zero_gradient(make):
    projector = make("moe").train()
    with torch.no_grad():
        projector.router.weight.zero_()
        projector.router.weight[:2, 0] = 100.0  # experts 0 and 1 wherever feature 0 is positive
    frames = torch.randn(1, 40, D)
    frames[..., 0] = 1.0
    (projector(frames, torch.tensor([40])).sum() + projector.aux_loss).backward()
    assert [projector.stats()[f"share_{i}"] for i in range(4)] == [0.5, 0.5, 0, 0]
    assert projector.experts[0].linear_1.weight.grad.any()
    assert not projector.experts[3].linear_1.weight.grad.any()


def test_jitter_and_auxiliary_loss_only_in_training(make):
    projector = make("moe", jitter=0.5)
    batch = torch.randn(1, 80, D), torch.tensor([80])
    projector.train()
    assert not torch.equal(projector(*batch), projector(*batch))
    assert projector.aux_loss is not None
    projector.eval()
    assert torch.equal(projector(*batch), projector(*batch))
    assert projector.aux_loss is None


def test_a_batch_without_tokens_has_a_finite_loss(make):
    projector = make("moe").train()
    projector(torch.randn(2, 3, D), torch.tensor([3, 1]))
    assert projector.aux_loss.item() == 0
    assert all(math.isfinite(value) for value in projector.stats().values())
