"""Memory that runs out costs time and changes nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.helpers import batch_of, tiny, trainer_of, utterances
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.memory import OutOfMemory, is_out_of_memory, split

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
    model = tiny(["projector", "lora"])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    batches = [batch_of(model, utterances()[:3]), batch_of(model, utterances()[3:])]
    trainer = trainer_of(
        model,
        ["projector", "lora"],
        batches,
        folder,
        max_steps=1,
        gradient_accumulation_steps=2,
        logging_steps=1,
    )
    with small_memory(model, seconds, backward=backward) as asked:
        trainer.run()
    moved = {n: before[n] - p.detach() for n, p in model.named_parameters()}
    return moved, trainer, asked


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_batch_that_does_not_fit_gives_the_same_update_in_parts(
    tmp_path: Path, backward: bool
) -> None:
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
    said = tight.report.display.console.file.getvalue()
    assert "Out of memory in step 1" in said
    assert f"parts of at most {tight.guard.limit:.0f} s" in said
    assert tight.state_dict()["memory_limit"] == tight.guard.limit < math.inf


def test_an_utterance_that_does_not_fit_alone_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"u\d \(\d\.\d s\) does not fit .* data\.max_seconds"):
        step(tmp_path, 0.1)


def test_another_error_is_not_taken_for_it(tmp_path: Path) -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TERABYTES, 4)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("limit", [0.5, 2.0, 4.0, 100.0])
def test_parts_keep_the_order_and_the_limit(limit: float) -> None:
    batch = batch_of(tiny(), utterances())
    parts = split(batch, limit)
    assert [i for part in parts for i in part.ids] == batch.ids
    assert all(part.padded_seconds <= limit or len(part) == 1 for part in parts)
    assert (len(parts) == 1) == (limit == 100.0)
