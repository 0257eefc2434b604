"""The MLP projector against plain loops in float64."""

from __future__ import annotations

import math

import torch

from tiny_audio.model.projectors import build_projector

D, W = 12, 20


def rms_norm(x: list[float], gain: list[float]) -> list[float]:
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + 1e-6)
    return [v * scale * g for v, g in zip(x, gain, strict=True)]


def linear(weight: list[list[float]], x: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, x, strict=True)) for row in weight]


def gelu(v: float) -> float:
    return v * 0.5 * (1 + math.erf(v / math.sqrt(2)))


def test_equals_plain_python(make):
    projector = make("mlp").double()
    for parameter in projector.parameters():  # gains too, so that a swapped norm would show
        torch.nn.init.normal_(parameter)
    weights = {name: tensor.tolist() for name, tensor in projector.state_dict().items()}
    frames = torch.randn(1, 14, D, dtype=torch.float64)
    tokens = projector(frames, torch.tensor([14]))[0]
    assert tokens.shape == (3, W)
    for a in range(3):
        x = [v for frame in frames[0, 4 * a : 4 * a + 4].tolist() for v in frame]
        x = linear(weights["linear_1.weight"], x)
        x = [gelu(v) for v in rms_norm(x, weights["norm.weight"])]
        x = rms_norm(linear(weights["linear_2.weight"], x), weights["norm_2.weight"])
        torch.testing.assert_close(tokens[a], torch.tensor(x, dtype=torch.float64))


def test_full_size_and_weight_names():
    with torch.device("meta"):
        projector = build_projector("mlp", 1280, 1024, 0.03, {"stride": 4, "hidden": 2048})
    sizes = {name: tuple(p.shape) for name, p in projector.named_parameters()}
    assert sizes == {
        "linear_1.weight": (2048, 5120),
        "norm.weight": (2048,),
        "linear_2.weight": (1024, 2048),
        "norm_2.weight": (1024,),
    }
    assert sum(p.numel() for p in projector.parameters()) == 12_585_984
