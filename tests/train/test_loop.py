"""One update: how label tokens weigh, and what a number that is none does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.helpers import batch_of, tiny, trainer_of, utterances
from tiny_audio.train.loop import DivergedError

SPLIT = (slice(0, 1), slice(1, 3), slice(3, 8))  # micro-batches of unequal size and length


def update(folder: Path, accumulated: bool, learns: list[str]) -> dict[str, torch.Tensor]:
    """What one step of gradient descent changes."""
    model = tiny(learns)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    parts = [utterances()[part] for part in SPLIT] if accumulated else [utterances()]
    batches = [batch_of(model, part) for part in parts]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = trainer_of(
        model,
        learns,
        batches,
        folder,
        max_steps=1,
        gradient_accumulation_steps=len(batches),
        logging_steps=1,
    )
    trainer.run()
    return {n: before[n] - p.detach() for n, p in model.named_parameters()}


@pytest.mark.parametrize("learns", [["projector"], ["projector", "lora"]], ids="+".join)
def test_accumulated_micro_batches_equal_one_big_batch(learns: list[str], tmp_path: Path) -> None:
    many = update(tmp_path / "many", True, learns)
    one = update(tmp_path / "one", False, learns)
    moved = 0
    for name, gradient in one.items():
        torch.testing.assert_close(many[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
        moved += int(gradient.abs().max() > 0)
    assert moved > 0


def test_the_logged_loss_is_the_mean_over_label_tokens(tmp_path: Path) -> None:
    model = tiny()
    batches = [batch_of(model, utterances()[part]) for part in SPLIT]
    with torch.no_grad():
        losses = [model.loss(batch) for batch in batches]
    expected = sum(float(x.ce_sum) for x in losses) / sum(int(x.n_tokens) for x in losses)
    trainer = trainer_of(
        model,
        ["projector"],
        batches,
        tmp_path,
        max_steps=1,
        gradient_accumulation_steps=3,
        logging_steps=1,
    )
    trainer.run()
    row = trainer.report.rows[0]
    assert row["loss"] == pytest.approx(expected, rel=1e-5)
    assert 0 <= row["padding"] < 1
    assert row["audio_seconds_per_second"] > 0


def test_the_gradient_norm_is_measured_before_it_is_clipped(tmp_path: Path) -> None:
    model = tiny()
    batches = [batch_of(model, utterances())]
    before = [p.detach().clone() for p in model.projector.parameters()]
    trainer = trainer_of(
        model, ["projector"], batches, tmp_path, max_grad_norm=1e-3, logging_steps=1
    )
    trainer.run()
    moved = [a - b.detach() for a, b in zip(before, model.projector.parameters(), strict=True)]
    total = torch.cat([m.flatten() for m in moved]).norm()
    assert trainer.report.rows[0]["grad_norm"] > 0.01
    assert float(total) == pytest.approx(1e-3, rel=0.02)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_samples(
    tmp_path: Path,
) -> None:
    model = tiny()
    batches = [batch_of(model, utterances()[part]) for part in SPLIT]
    batches[1].waveform[0, 100] = float("nan")
    before = [p.detach().clone() for p in model.parameters()]
    trainer = trainer_of(
        model, ["projector"], batches, tmp_path, max_steps=1, gradient_accumulation_steps=3
    )
    with pytest.raises(DivergedError, match=r"step 1: the loss .* batch of u1, u2\."):
        trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    model = tiny()
    weight = next(model.projector.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    batches = [batch_of(model, utterances()[:2])]
    before = weight.detach().clone()
    trainer = trainer_of(model, ["projector"], batches, tmp_path)
    with pytest.raises(DivergedError, match="the gradient is not a finite number"):
        trainer.run()
    assert torch.equal(before, weight)


def test_a_stream_that_ends_ends_the_run(tmp_path: Path) -> None:
    model = tiny()
    trainer = trainer_of(
        model, ["projector"], [batch_of(model, utterances()[:2])], tmp_path, max_steps=10
    )
    assert trainer.run() is None
    assert trainer.step == 1
