"""Cross-entropy in pieces equals cross-entropy as a whole."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tiny_audio.model import loss as loss_module
from tiny_audio.model.loss import summed_cross_entropy

N, W, V = 37, 16, 211


def case(dtype: torch.dtype) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(W, V, bias=False).requires_grad_(False)
    head.weight.copy_(torch.randn(V, W, generator=generator))
    hidden = torch.randn(N, W, generator=generator)
    return (
        hidden.to(dtype).requires_grad_(True),
        head.to(dtype),
        torch.randint(0, V, (N,), generator=generator),
    )


@pytest.mark.parametrize("rows", [1, 5, N, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_float64(rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_module._PIECE_BYTES, "cpu", rows * 4 * V)
    hidden, head, targets = case(dtype)
    loss = summed_cross_entropy(hidden, head, targets)
    (0.25 * loss).backward()
    exact = hidden.detach().double().requires_grad_(True)
    wanted = cross_entropy(exact @ head.weight.double().T, targets, reduction="sum")
    (0.25 * wanted).backward()
    assert loss.dtype is torch.float32
    assert hidden.grad.dtype is dtype
    near = 1e-6 if dtype is torch.float32 else 2e-3
    assert float(loss) == pytest.approx(float(wanted), rel=near)
    assert (hidden.grad.double() - exact.grad).norm() < 4 * near * exact.grad.norm()


def test_a_head_that_learns_gets_its_gradient() -> None:
    hidden, head, targets = case(torch.float32)
    head.requires_grad_(True)
    summed_cross_entropy(hidden, head, targets).backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0


def test_without_labels_or_gradient_there_is_nothing_to_do() -> None:
    hidden, head, targets = case(torch.float32)
    with torch.no_grad():
        assert not summed_cross_entropy(hidden, head, targets).requires_grad
    loss = summed_cross_entropy(hidden[:0], head, targets[:0])
    loss.backward()
    assert loss.item() == 0
