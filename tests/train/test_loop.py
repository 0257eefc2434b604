"""One update: how label tokens weigh, and what a number that is none does."""

from pathlib import Path

import pytest
import torch

from tests.train.helpers import batch_of, tiny, trainer_of, utterances
from tiny_audio.train.loop import DivergedError

SPLIT = (slice(0, 1), slice(1, 3), slice(3, 8))  # micro-batches of unequal size and length


@pytest.mark.parametrize("learns", [["projector"], ["projector", "lora"]], ids="+".join)
def test_accumulated_micro_batches_equal_one_big_batch(learns: list[str], tmp_path: Path) -> None:
    moved, rows = [], []
    for name, parts in (("many", SPLIT), ("one", (slice(0, 8),))):
        model = tiny(learns, dropout=False)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        batches = [batch_of(model, utterances()[part]) for part in parts]
        if name == "one":
            with torch.no_grad():
                loss = model.loss(batches[0])
        trainer = trainer_of(model, learns, batches, tmp_path / name)
        trainer.run()
        moved.append({n: before[n] - p.detach() for n, p in model.named_parameters()})
        rows.append(trainer.report.rows[0])
    for name, gradient in moved[1].items():
        torch.testing.assert_close(moved[0][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert any(gradient.abs().max() > 0 for gradient in moved[1].values())
    mean = float(loss.ce_sum) / int(loss.n_tokens)  # over the label tokens
    assert [row["loss"] for row in rows] == [pytest.approx(mean, rel=1e-5)] * 2


def test_the_gradient_norm_is_measured_before_it_is_clipped(tmp_path: Path) -> None:
    model = tiny()
    before = [p.detach().clone() for p in model.projector.parameters()]
    batches = [batch_of(model, utterances())]
    trainer = trainer_of(model, ["projector"], batches, tmp_path, max_grad_norm=1e-3)
    trainer.run()
    moved = [a - b.detach() for a, b in zip(before, model.projector.parameters(), strict=True)]
    total = torch.cat([m.flatten() for m in moved]).norm()
    assert trainer.report.rows[0]["grad_norm"] > 0.01
    assert float(total) == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("loss", r"step 1: the loss .* batch of u1, u2\."),
        ("gradient", r"step 1: the gradient .* batch of u0, u1, u2, u3, u4, u5, u6, u7\."),
    ],
)
def test_a_number_that_is_not_finite_stops_before_the_update_and_names_the_samples(
    where: str, message: str, tmp_path: Path
) -> None:
    model = tiny()
    batches = [batch_of(model, utterances()[part]) for part in SPLIT]
    if where == "loss":
        batches[1].waveform[0, 100] = float("nan")
    else:
        next(model.projector.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(DivergedError, match=message):
        trainer_of(model, ["projector"], batches, tmp_path).run()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
