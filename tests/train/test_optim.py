"""The schedule's values, and which parameter is in which group."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.train.helpers import LR, NO_DECAY, tiny
from tiny_audio.errors import ConfigError
from tiny_audio.train.stages import (
    lr_multiplier,
    parameter_groups,
    set_lr,
)


def multipliers(warmup: int, steps: int, ratio: float) -> list[float]:
    return [lr_multiplier(i, warmup, steps, ratio) for i in range(steps)]


def test_warmup_rises_linearly_to_the_peak() -> None:
    rates = multipliers(10, 100, 0.1)
    assert rates[0] == pytest.approx(0.1)
    assert rates[4] == pytest.approx(0.5)
    assert rates[9] == rates[10] == 1.0


def test_cosine_equals_torchs_own() -> None:
    rates = multipliers(0, 50, 0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, T_max=49, eta_min=0.1)
    for rate in rates:
        assert rate == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_the_last_update_has_the_lowest_rate_and_none_after_it_is_lower() -> None:
    rates = multipliers(10, 100, 0.1)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert lr_multiplier(500, 10, 100, 0.1) == pytest.approx(0.1)


def test_a_short_run_gets_a_short_warmup() -> None:
    assert multipliers(500, 10_000, 0.1)[499] == 1.0 > multipliers(500, 10_000, 0.1)[498]
    assert multipliers(500, 200, 0.1) == multipliers(20, 200, 0.1)
    assert multipliers(500, 5, 0.1) == multipliers(0, 5, 0.1)
    assert all(math.isfinite(rate) for rate in multipliers(0, 1, 0.1))


def test_each_part_has_its_rate_and_norms_do_not_decay() -> None:
    model = tiny(["projector", "lora"])
    groups = parameter_groups(
        model,
        lr={"projector": 1e-3, "lora": 2e-4, "decoder": 0.0},
        weight_decay={"projector": 0.1, "lora": 0.0, "decoder": 0.0},
    )
    by_name = {group["name"]: group for group in groups}
    assert set(by_name) == {"projector", "projector (no decay)", "lora"}
    assert all(p.ndim > 1 for p in by_name["projector"]["params"])
    assert all(p.ndim == 1 for p in by_name["projector (no decay)"]["params"])
    assert by_name["projector (no decay)"]["weight_decay"] == 0.0
    grouped = [id(p) for group in groups for p in group["params"]]
    learning = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(learning)
    optimizer = torch.optim.AdamW(groups)
    assert set_lr(optimizer, 0.5) == {"projector": 5e-4, "lora": 1e-4}


def test_a_part_without_a_rate_cannot_learn() -> None:
    with pytest.raises(ConfigError, match=r"training\.learning_rate"):
        parameter_groups(tiny(), lr=LR | {"projector": 0.0}, weight_decay=NO_DECAY)
