"""training.batch_seconds=auto, as far as it can be seen without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.train.helpers import rows, run, settings, tiny
from tiny_audio.errors import ConfigError
from tiny_audio.model.checkpoint import read_config
from tiny_audio.train.build import train
from tiny_audio.train.memory import by_memory, largest, try_step, worst_batches


@pytest.mark.parametrize("limit", [5.0, 10.0, 19.9, 40.0, 133.0, 640.0, 10_000.0])
def test_the_largest_budget_is_found_within_five_percent_and_never_overshot(limit: float) -> None:
    tried: list[float] = []

    def fits(seconds: float) -> bool:
        tried.append(seconds)
        return seconds <= limit

    found = largest(fits, 10.0, 1920.0)
    best = max(10.0, min(limit, 1920.0))
    assert found <= best
    assert found > best - max(10.0, 0.05 * best) - 1e-9
    assert len(tried) < 20


def test_the_worst_batches_fill_the_budget_with_few_long_and_many_short_clips() -> None:
    few, many = worst_batches(120.0, 30.0, 64)
    assert (len(few), few[0].seconds) == (4, 30.0)
    assert (len(many), many[0].seconds) == (64, pytest.approx(120 / 64, abs=0.01))
    assert len(few[0].text) == 30 * 25


def test_a_tried_step_reaches_every_learning_weight() -> None:
    model = tiny()
    try_step(model, Accelerator(cpu=True), ["projector"], worst_batches(20.0, 30.0, 64))
    learning = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learning)


def test_a_machine_without_cuda_goes_by_its_memory() -> None:
    assert [by_memory(gib) for gib in (1, 8, 24, 512)] == [20, 40, 120, 240]


def test_a_run_keeps_the_number_that_was_chosen(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = ("training.batch_seconds=auto", "training.eval_steps=0")
    first = run(data, tmp_path / "run", *auto, "training.max_steps=1")
    assert "training.batch_seconds=auto: " in capsys.readouterr().out
    assert first.last is not None
    assert read_config(first.last).training.batch_seconds >= 20
    last = "training.resume_from_checkpoint=last"
    run(data, tmp_path / "run", *auto, "training.max_steps=2", last)
    assert "s, as before" in capsys.readouterr().out
    assert len(rows(tmp_path / "run")) == 2


@pytest.mark.parametrize("value", ["0", "-3", "much", "true"])
def test_other_values_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"batch_seconds=.*: must be a number above 0, or auto"):
        train(settings(tmp_path, tmp_path / "run", f"training.batch_seconds={value}"))
