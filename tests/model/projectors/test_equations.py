"""Each projector against its equations, token after token in float64, and that each learns."""

import math

import pytest
import torch
from tests.model.projectors.conftest import D, W
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_audio.model.projectors.moe import balance_loss, z_loss


def rms_norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * gain


def test_mlp_equals_one_token_after_the_other(make):
    projector = make("mlp").double()
    for parameter in projector.parameters():  # gains too, so that a swapped norm would show
        torch.nn.init.normal_(parameter)
    state = projector.state_dict()
    frames = torch.randn(1, 14, D, dtype=torch.float64)
    tokens = projector(frames, torch.tensor([14]))[0]
    assert tokens.shape == (3, W)
    for a in range(3):
        x = state["linear_1.weight"] @ frames[0, 4 * a : 4 * a + 4].flatten()
        x = rms_norm(x, state["norm.weight"])
        x = state["linear_2.weight"] @ (x * 0.5 * (1 + torch.erf(x / 2**0.5)))
        torch.testing.assert_close(tokens[a], rms_norm(x, state["norm_2.weight"]))


def test_mosa_equals_one_adapter_after_the_other(make):
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


def expert(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return state[f"{name}.linear_2.weight"] @ F.gelu(state[f"{name}.linear_1.weight"] @ x)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_moe_equals_one_token_after_the_other(make, top_k):
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


K, Q, H, HEADS = 5, 2, 16, 2


class Slow:
    """BLIP-2's Q-Former written out: post-norm blocks, cross-attention in every layer."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def dense(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attend(self, name: str, x: Tensor, memory: Tensor) -> Tensor:
        q = self.dense(f"{name}.attention.query", x)
        k = self.dense(f"{name}.attention.key", memory)
        v = self.dense(f"{name}.attention.value", memory)
        heads = []
        for part in torch.arange(H).chunk(HEADS):
            scores = q[:, part] @ k[:, part].T / len(part) ** 0.5
            heads.append(torch.softmax(scores, -1) @ v[:, part])
        out = self.dense(f"{name}.output.dense", torch.cat(heads, -1))
        return self.norm(f"{name}.output.LayerNorm", out + x)

    def window(self, frames: Tensor) -> Tensor:
        """Frames [up to K, D] -> tokens [Q, W]; a ragged window simply has fewer frames."""
        frames = frames + self.state["positions"][: len(frames)]
        x = self.norm("qformer.layernorm", self.state["queries"])
        for i in range(2):
            name = f"qformer.encoder.layer.{i}"
            x = self.attend(f"{name}.attention", x, x)
            x = self.attend(f"{name}.crossattention", x, frames)
            h = self.dense(f"{name}.intermediate_query.dense", x)
            h = self.dense(f"{name}.output_query.dense", F.gelu(h))
            x = self.norm(f"{name}.output_query.LayerNorm", h + x)
        y = x @ self.state["linear.weight"].T
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.state["norm.weight"]


def test_qformer_equals_window_after_window(make):
    projector = make("qformer").double()
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    slow = Slow(projector.state_dict())
    frames = torch.randn(3, 17, D, dtype=torch.float64)
    lengths = [17, 5, 11]
    tokens = projector(frames, torch.tensor(lengths))
    assert tokens.shape == (3, 4 * Q, W)
    for row, clip, n in zip(tokens, frames, lengths, strict=True):
        windows = [clip[start : min(start + K, n)] for start in range(0, n, K)]
        expected = torch.cat([slow.window(window) for window in windows])
        torch.testing.assert_close(row[: len(expected)], expected)
        assert (row[len(expected) :] == 0).all()


SYMBOLS = 8


def test_learns_what_frames_say_and_in_which_order(kind, make):
    """Two frames a symbol, smeared over their neighbours as an encoder does; no absolute place.

    A projector blind to order would know the symbols of a window and still have to guess.
    """
    changes = {"window": 4, "queries": 2, "hidden": 32, "layers": 1}
    changes = {"qformer": changes, "glm": {"stride": 2}}.get(kind, {"stride": 2, "hidden": 32})
    projector = make(kind, **changes)
    head = nn.Linear(W, SYMBOLS)
    table, smear = torch.randn(SYMBOLS, D), torch.randn(D, D, 3) / (3 * D) ** 0.5
    parameters = [*projector.train().parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    for _ in range(150):
        symbols = torch.randint(SYMBOLS, (8, 20))
        frames = table[symbols].repeat_interleave(2, 1)
        smeared = F.conv1d(frames.transpose(1, 2), smear, padding=1).transpose(1, 2)
        tokens = projector(F.layer_norm(frames + smeared, (D,)), torch.full((8,), 40))
        loss = F.cross_entropy(head(tokens / 0.03).flatten(0, 1), symbols.flatten())
        optimizer.zero_grad()
        (loss if projector.aux_loss is None else loss + projector.aux_loss).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert sum(losses[-10:]) / 10 < 0.2
