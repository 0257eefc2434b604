"""A run that begins with trained weights is measured against them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.train.helpers import rows, run
from tests.train.test_patience import reporter
from tests.train.test_resume import untimed
from tiny_audio.train.evaluation import Evaluation

SHORT = ("training.eval_steps=2", "training.eval_utterances=2", "training.max_steps=4")


def test_the_start_is_evaluated_once_and_a_resume_knows_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(data, tmp_path / "one", "training.max_steps=2", "training.eval_steps=0")
    stage = (*SHORT, "+experiments=mlp_lora", "training.save_steps=2")
    begin = f"model.init_from={first.last}"
    whole = run(data, tmp_path / "two", *stage, begin)
    assert [row["step"] for row in rows(tmp_path / "two", "eval")] == [0, 2, 4]
    assert "cliff" not in capsys.readouterr().out
    parts = tmp_path / "parts"
    shutil.copytree(tmp_path / "two", parts)
    shutil.rmtree(parts / "checkpoints" / "step-00000004")
    run(data, parts, *stage, "training.resume_from_checkpoint=last")
    assert untimed(parts) == untimed(tmp_path / "two")
    assert whole.best is not None


def test_a_run_that_only_gets_worse_says_that_the_start_is_best(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(data, tmp_path / "one", "training.max_steps=1", "training.eval_steps=0")
    worse = (
        "training.learns=[projector,decoder]",
        "training.decoder_learning_rate=1",
        "training.warmup_steps=0",
        "training.eval_utterances=0",
    )
    done = run(data, tmp_path / "two", *SHORT, *worse, f"model.init_from={first.last}")
    said = capsys.readouterr().out
    assert "Worse than at the start: " in said
    assert "lower the learning rate" in said
    assert f"No checkpoint is better than {first.last} (eval loss " in said
    assert f"Best checkpoint: {done.best} (no better than the start)" in said
    patient = ("training.early_stopping_patience=1", "training.max_steps=9")
    ended = run(data, tmp_path / "p", *SHORT, *worse, *patient, f"model.init_from={first.last}")
    assert ended.steps == 2


def test_the_best_of_what_was_learned_is_kept_though_the_start_was_better(tmp_path: Path) -> None:
    report = reporter(tmp_path, "wer", patience=None)
    best = []
    for step, wer in enumerate((0.3, 0.5, 0.6, 0.4)):
        report.evaluated(step, Evaluation(1.0, wer, None, ()))
        best.append(report.is_best())
    assert best[1:] == [True, False, True]
    assert report.unbeaten_start("nano") == "nano (eval loss 1.0000, WER 30.0% at step 0)"
    report.evaluated(4, Evaluation(1.0, 0.2, None, ()))
    assert report.unbeaten_start("nano") is None
