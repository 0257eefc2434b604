"""Memory that runs out costs time and changes nothing else; budgets that fit are found."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.helpers import (
    RESUME,
    batch_of,
    rows,
    run,
    said_by,
    tiny,
    trainer_of,
    utterances,
)
from tiny_audio.infer.memory import out_of_memory
from tiny_audio.model.checkpoint import read_config
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.memory import (
    OutOfMemory,
    by_memory,
    largest,
    split,
    worst_batches,
)

TERABYTES = 2**44


@contextmanager
def small_memory(model: SpeechModel, seconds: float, *, backward: bool) -> Iterator[list[float]]:
    """A decoder that asks for more memory than there is when it gets too much audio.

    It happens in the forward pass, or in the middle of the backward pass.
    """
    asked: list[float] = []

    def allocate(rows: int, tokens: int) -> None:
        asked.append(rows * tokens / 12.5)  # with the prompt; about seconds
        if rows * tokens / 12.5 > seconds:
            torch.empty(TERABYTES, 4)

    def before(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        embeds = inputs["inputs_embeds"]
        if not backward:
            allocate(*embeds.shape[:2])
        else:
            embeds.register_hook(lambda gradient: allocate(*gradient.shape[:2]))

    handle = model.causal_lm.base_model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield asked
    finally:
        handle.remove()


def step(folder: Path, seconds: float, *, backward: bool = False) -> tuple[Any, Any, Any]:
    """What one update of gradient descent changes, over two micro-batches."""
    learns = ["projector", "lora"]
    model = tiny(learns, dropout=False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    batches = [batch_of(model, utterances()[:3]), batch_of(model, utterances()[3:])]
    trainer = trainer_of(model, learns, batches, folder)
    with small_memory(model, seconds, backward=backward) as asked:
        trainer.run()
    return {n: before[n] - p.detach() for n, p in model.named_parameters()}, trainer, asked


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_batch_that_does_not_fit_gives_the_same_update_in_parts(tmp_path, backward):
    whole, roomy, asked = step(tmp_path / "whole", math.inf, backward=backward)
    parts, tight, _ = step(tmp_path / "parts", max(asked) / 3.5, backward=backward)
    assert roomy.guard.times == 0
    assert tight.guard.times >= 1
    for name, moved in whole.items():
        torch.testing.assert_close(parts[name], moved, atol=1e-6, rtol=1e-4, msg=name)
    row, other = tight.report.rows[0], roomy.report.rows[0]
    assert row["out_of_memory"] == tight.guard.times
    assert "out_of_memory" not in other
    assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert "Out of memory in step 1" in said_by(tight.report)
    assert f"parts of at most {tight.guard.limit:.0f} s" in said_by(tight.report)
    assert tight.state_dict()["memory_limit"] == tight.guard.limit < math.inf


def test_an_utterance_that_does_not_fit_alone_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"u\d \(\d\.\d s\) does not fit .* data\.max_seconds"):
        step(tmp_path, 0.1)


def test_another_error_is_not_taken_for_it() -> None:
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("out of memory"))
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TERABYTES, 4)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize("limit", [0.5, 2.0, 4.0, 100.0])
def test_parts_keep_the_order_and_the_limit(limit: float) -> None:
    batch = batch_of(tiny(), utterances())
    parts = split(batch, limit)
    assert [i for part in parts for i in part.ids] == batch.ids
    assert all(part.padded_seconds <= limit or len(part) == 1 for part in parts)
    assert (len(parts) == 1) == (limit == 100.0)


@pytest.mark.parametrize("limit", [5.0, 10.0, 19.9, 40.0, 133.0, 640.0, 10_000.0])
def test_the_largest_budget_is_found_in_few_trials(limit: float) -> None:
    tried: list[float] = []

    def fits(seconds: float) -> bool:
        tried.append(seconds)
        return seconds <= limit

    assert largest(fits, 1920.0) == max(10.0, min(limit, 1920.0) // 10 * 10)
    assert len(tried) < 9


def test_the_worst_batches_fill_the_budget_and_can_be_learned_from() -> None:
    few, many = worst_batches(120.0, 30.0, 64)
    assert (len(few), few[0].seconds) == (4, 30.0)
    assert (len(many), many[0].seconds) == (64, pytest.approx(120 / 64, abs=0.01))
    assert len(few[0].text) == 30 * 25
    model = tiny()
    for members in worst_batches(20.0, 30.0, 8):
        assert model.loss(batch_of(model, members)).total.isfinite()


def test_a_machine_without_cuda_goes_by_its_memory() -> None:
    assert [by_memory(gib) for gib in (1, 8, 24, 512)] == [20, 40, 120, 240]


def test_a_run_keeps_the_number_that_was_chosen(data, tmp_path, capsys):
    auto = ("training.batch_seconds=auto", "training.eval_steps=0")
    first = run(data, tmp_path / "run", *auto, "training.max_steps=1")
    assert "training.batch_seconds=auto: " in capsys.readouterr().out
    assert read_config(first.last).training.batch_seconds >= 20
    run(data, tmp_path / "run", *auto, "training.max_steps=2", RESUME)
    assert "s (as before)" in capsys.readouterr().out
    assert len(rows(tmp_path / "run")) == 2
