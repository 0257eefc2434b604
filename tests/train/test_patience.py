"""A run ends early where evaluations get no better, and a resumed one counts on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from accelerate import Accelerator
from rich.console import Console

from tests.train.helpers import rows, run
from tiny_audio.compose import compose
from tiny_audio.errors import ConfigError
from tiny_audio.train.build import train
from tiny_audio.train.checkpoints import CheckpointStore
from tiny_audio.train.display import Display
from tiny_audio.train.evaluation import Evaluation
from tiny_audio.train.metrics import Reporter

FROZEN = ("training.learning_rate=1e-30", "training.eval_steps=1", "training.eval_utterances=2")


def reporter(folder: Path, metric: str, patience: int | None) -> Reporter:
    display = Display(9, live=False, console=Console(file=io.StringIO()))
    return Reporter(Accelerator(cpu=True), folder, display, metric=metric, patience=patience)


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
def test_evaluations_are_compared_by_the_metric_that_was_chosen(
    metric: str, figures: list[tuple[float, float]], stale: list[bool], tmp_path: Path
) -> None:
    report = reporter(tmp_path, metric, patience=2)
    found = []
    for step, (wer, loss) in enumerate(figures):
        report.evaluated(step, Evaluation(loss, wer, None, ()))
        found.append(report.stale)
    assert found == stale
    other = reporter(tmp_path / "never", metric, patience=None)
    for step, (wer, loss) in enumerate(figures):
        other.evaluated(step, Evaluation(loss, wer, None, ()))
    assert not other.stale


@pytest.mark.parametrize("metric", ["wer", "loss"])
def test_the_best_checkpoint_is_best_by_the_metric(metric: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9, metric=metric)
    for step, (wer, loss) in enumerate([(0.9, 1.0), (0.3, 3.0), (0.6, 2.0)]):
        store.save(step, lambda folder: folder.mkdir(), wer=wer, loss=loss)
    assert store.best is not None
    assert store.best.name == ("step-00000001" if metric == "wer" else "step-00000000")


def test_a_run_that_learns_nothing_ends_after_its_patience(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(
        data, tmp_path / "a", *FROZEN, "training.max_steps=9", "training.early_stopping_patience=2"
    )
    assert done.steps == 3
    assert done.exit_code == 0
    assert done.last is not None
    assert done.last.name == "step-00000003"
    said = capsys.readouterr().out
    assert (
        "Ended early, after 2 evaluations without a better WER (training.early_stopping_patience=2)"
        in said
    )


def test_a_resumed_run_counts_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    first = run(data, out, *FROZEN, "training.max_steps=2", "training.early_stopping_patience=3")
    assert first.steps == 2
    again = ("training.resume_from_checkpoint=last", "training.max_steps=9")
    whole = run(
        data, tmp_path / "c", *FROZEN, "training.max_steps=9", "training.early_stopping_patience=3"
    )
    resumed = run(data, out, *FROZEN, *again, "training.early_stopping_patience=3")
    assert resumed.steps == whole.steps == 4
    figures = [(row["step"], row["wer"], row["eval_loss"]) for row in rows(out, "eval")]
    same = [(row["step"], row["wer"], row["eval_loss"]) for row in rows(tmp_path / "c", "eval")]
    assert figures == same
    assert run(data, out, *FROZEN, *again, "training.early_stopping_patience=3").steps == 4
    assert run(data, out, *FROZEN, *again, "training.early_stopping_patience=4").steps == 5


@pytest.mark.parametrize(
    "override", ["training.early_stopping_patience=0", "training.eval_steps=0"]
)
def test_a_patience_that_cannot_be_is_refused(override: str) -> None:
    settings = ["model=tiny", "data=folder", "data.path=/nowhere", "output_dir=x"]
    cfg = compose([*settings, "training.early_stopping_patience=1", override])
    with pytest.raises(ConfigError, match="patience"):
        train(cfg)
