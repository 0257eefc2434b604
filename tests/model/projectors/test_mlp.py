"""The MLP projector written out in float64."""

from __future__ import annotations

import torch

D, W = 12, 20


def rms_norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * gain


def test_equals_one_token_after_the_other(make):
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
