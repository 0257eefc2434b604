"""The Q-Former against window-by-window loops in float64, from its weights alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

D, W, K, Q, H, HEADS = 12, 20, 5, 2, 16, 2


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


def test_equals_window_after_window(make):
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


def test_no_dropout_and_cross_attention_everywhere(make):
    projector = make("qformer", layers=3).train()
    batch = torch.randn(1, 17, D), torch.tensor([17])
    assert torch.equal(projector(*batch), projector(*batch))
    assert all(layer.has_cross_attention for layer in projector.qformer.encoder.layer)
