"""How evaluations are compared: with each other, to stop in time, and with the start."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.train.helpers import RESUME, reporter, rows, run, untimed
from tiny_audio.train.checkpoints import CheckpointStore

FROZEN = ("training.learning_rate=1e-30", "training.eval_steps=1", "training.eval_utterances=0")
SHORT = ("training.eval_steps=2", "training.eval_utterances=2", "training.max_steps=4")


def scored(step: int, wer: float, loss: float) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "wer": wer, "eval_loss": loss}


@pytest.mark.parametrize(
    ("metric", "figures", "stale"),
    [
        ("wer", [(0.9, 3.0)], [False]),
        ("wer", [(0.9, 3.0), (0.9, 2.9), (0.9, 2.9), (0.8, 9.0)], [False, False, False, False]),
        ("wer", [(0.5, 3.0), (0.6, 1.0), (0.7, 0.5)], [False, False, True]),
        ("loss", [(0.5, 3.0), (0.6, 1.0), (0.7, 0.5)], [False, False, False]),
        ("loss", [(0.5, 1.0), (0.1, 2.0), (0.1, 1.5)], [False, False, True]),
    ],
)
def test_evaluations_are_compared_by_the_metric_that_was_chosen(metric, figures, stale, tmp_path):
    report = reporter(tmp_path, metric, patience=2)
    never = reporter(tmp_path / "never", metric)
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    found = []
    for step, (wer, loss) in enumerate(figures, 1):
        for one in (report, never):
            one.record(scored(step, wer, loss))
        store.save(step, lambda folder: folder.mkdir(parents=True), best=report.is_best())
        found.append(report.stale)
    assert found == stale
    assert not never.stale
    order = [figure if metric == "wer" else figure[::-1] for figure in figures]
    for one in (store, CheckpointStore(tmp_path / "checkpoints", keep=1)):
        assert one.best is not None
        assert one.best.name == f"step-{order.index(min(order)) + 1:08d}"


@pytest.mark.slow
def test_a_run_that_learns_nothing_ends_after_its_patience_also_if_resumed(data, tmp_path, capsys):
    patience = "training.early_stopping_patience={}".format
    whole = run(data, tmp_path / "a", *FROZEN, "training.max_steps=9", patience(3))
    assert (whole.steps, whole.exit_code) == (4, 0)
    assert whole.last.name == "step-00000004"
    said = capsys.readouterr().out
    assert "Ended early: no better evaluation within training.early_stopping_patience=3" in said
    out = tmp_path / "b"
    assert run(data, out, *FROZEN, "training.max_steps=2", patience(3)).steps == 2
    longer = (*FROZEN, RESUME, "training.max_steps=9")
    assert run(data, out, *longer, patience(3)).steps == 4
    assert rows(out, "eval") == rows(tmp_path / "a", "eval")
    assert run(data, out, *longer, patience(4)).steps == 5


@pytest.fixture
def first(done: Path) -> str:
    return f"model.init_from={done / 'checkpoints' / 'step-00000002'}"


@pytest.mark.slow
def test_the_start_is_evaluated_once_and_a_resume_knows_it(data, first, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stage = (*SHORT, "+experiments=mlp_lora", "training.save_steps=2")
    run(data, whole, *stage, first)
    assert [row["step"] for row in rows(whole, "eval")] == [0, 2, 4]
    assert "cliff" not in capsys.readouterr().out
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints" / "step-00000004")
    run(data, parts, *stage, RESUME)
    assert untimed(parts) == untimed(whole)


def test_a_run_that_only_gets_worse_says_that_the_start_is_best(data, first, tmp_path, capsys):
    done = run(
        *(data, tmp_path, *SHORT, first, "training.learns=[projector,decoder]"),
        *("training.decoder_learning_rate=1", "training.warmup_steps=0"),
        *("training.eval_utterances=0", "training.early_stopping_patience=1"),
    )
    said = capsys.readouterr().out
    assert done.steps == 2
    assert "Worse than at the start: " in said
    assert "lower the learning rate" in said
    start = first.removeprefix("model.init_from=")
    assert f"No checkpoint is better than {start} (eval loss " in said
    assert f"Best checkpoint: {done.best}" in said


def test_the_best_of_what_was_learned_is_kept_though_the_start_was_better(tmp_path: Path) -> None:
    report = reporter(tmp_path)
    best = []
    for step, wer in enumerate((0.3, 0.5, 0.6, 0.4)):
        report.record(scored(step, wer, 1.0))
        best.append(report.is_best())
    assert best[1:] == [True, False, True]
    assert report.unbeaten_start("nano") == "nano (eval loss 1.0000, WER 30.0% at step 0)"
    report.record(scored(4, 0.2, 1.0))
    assert report.unbeaten_start("nano") is None
