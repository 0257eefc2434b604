"""Compiled layers compute what they computed before, for every length, and save under old names."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.helpers import batch_of, rows, run, tiny, utterances
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.stages import compile_layers, eagerly

COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))


def gradients(model: SpeechModel, count: int) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model.loss(batch_of(model, utterances()[:count]))
    loss.total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.total.item(), found


@pytest.mark.slow
def test_loss_and_gradients_stay_and_lengths_do_not_compile_anew() -> None:
    """Two programs a stack at most: a batch of one is another program than one of several."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, counts = tiny(["projector", "decoder"]), (2, 5, 8, 7, 1)
    before = [gradients(model, count) for count in counts]
    names = list(model.state_dict())
    compile_layers(model, print, backend="aot_eager")
    for count, (loss, expected) in zip(counts, before, strict=True):
        again, found = gradients(model, count)
        assert again == pytest.approx(loss, rel=1e-4)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            gap = (gradient - expected[name]).norm() / expected[name].norm().clamp_min(1e-12)
            assert gap < 1e-4, name
    assert list(model.state_dict()) == names
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    torch._dynamo.utils.counters.clear()
    with eagerly(model), torch.no_grad():  # a program of its own, were it compiled
        model.loss(batch_of(model, utterances()[:2]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    model, said = tiny(), list[str]()
    compile_layers(model, said.append)
    assert len(said) == 1
    assert "C++ compiler" in said[0]
    assert model.loss(batch_of(model, utterances()[:2])).total.isfinite()


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
def test_a_compiled_run_learns_and_saves_what_an_eager_one_does(data: Path, tmp_path: Path) -> None:
    short = ("training.max_steps=6", "training.eval_steps=3", "training.save_steps=6")
    run(data, tmp_path / "eager", *short)
    run(data, tmp_path / "compiled", *short, "training.torch_compile=true")
    losses, weights = [], []
    for name in ("eager", "compiled"):
        losses.append([row["loss"] for row in rows(tmp_path / name) if row["kind"] == "train"])
        (checkpoint,) = (tmp_path / name / "checkpoints").glob("step-00000006")
        weights.append(load_file(checkpoint / "model.safetensors"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert weights[0].keys() == weights[1].keys()
