"""Metrics on disk and in memory, and what a screen shows of them."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import pytest
import torch
from rich.console import Console

from tests.train.helpers import reporter, said_by, tiny
from tiny_audio.model.batch import IGNORE
from tiny_audio.train.build import resume_command
from tiny_audio.train.evaluation import Evaluation
from tiny_audio.train.metrics import Bar, Reporter

ROW: dict[str, Any] = {
    **{"kind": "train", "step": 50, "loss": 1.2345, "grad_norm": 0.5, "grad_norm_max": 0.9},
    **{"lr_projector": 1e-3, "lr_lora": 2e-4, "seconds_per_step": 2.0},
    "audio_seconds_per_second": 812.0,
}
EVAL: dict[str, Any] = {"kind": "eval", "step": 50, "eval_loss": 1.5, "wer": 0.123, "cer": 0.05}


def test_a_new_run_does_not_go_on_with_the_rows_of_one_that_left_no_checkpoint(tmp_path):
    reporter(tmp_path).record(ROW)
    report = reporter(tmp_path)
    report.record(EVAL)
    report.record(ROW)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [EVAL, ROW]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    report = reporter(tmp_path)
    report.accelerator = SimpleNamespace(is_main_process=False, log=lambda *_, **__: None)
    report.evaluated(1, Evaluation(1.0, 0.5, 0.1, (("a", "b"),)))
    assert len(report.rows) == 1
    assert said_by(report) == ""
    assert not list(tmp_path.iterdir())


def test_guessing_by_frequency_costs_the_labels_entropy(tmp_path: Path) -> None:
    report = reporter(tmp_path)
    assert report.guess_loss == 0.0
    report.count_labels(torch.tensor([[0, 1, 2, 3], [IGNORE] * 4]))
    assert report.guess_loss == pytest.approx(math.log(4))
    report.count_labels(torch.zeros(2, 500, dtype=torch.long))
    assert report.guess_loss < 0.05


def test_a_note_is_not_repeated_at_every_row(tmp_path: Path) -> None:
    report = reporter(tmp_path)
    report.count_labels(torch.arange(500))
    model = tiny()
    for step in range(1, 20):
        report.training(ROW | {"step": step, "loss": 4.2}, model)
    assert said_by(report).count("Still before the cliff") == 1


def test_the_picture_is_a_picture(tmp_path: Path) -> None:
    report = reporter(tmp_path)
    report.draw()  # of nothing yet
    for step in range(1, 40):
        report.record(ROW | {"step": step, "loss": 4.0 if step < 20 else 0.5})
    report.record(EVAL)
    report.record(EVAL | {"step": 60, "wer": None})
    report.draw()
    pixels = matplotlib.image.imread(tmp_path / "loss.png")
    assert pixels.shape[0] > 300
    assert pixels.std() > 0.01


@pytest.mark.parametrize("terminal", [True, False])
def test_every_figure_is_shown(terminal: bool, tmp_path: Path) -> None:
    file = io.StringIO()
    bar = Bar(100, live=True, console=Console(file=file, force_terminal=terminal, width=100))
    report = Reporter(reporter(tmp_path).accelerator, tmp_path, bar, metric="wer")
    with bar:
        assert bar.disable != terminal
        report.training(ROW, tiny())
        report.evaluated(50, Evaluation(1.5, 0.123, 0.05, (("a [bold] word", "a bald word"),)))
        report.say("a note [with] brackets")
    shown = file.getvalue()
    for figure in ("1.2345", "0.50", "1.0e-03", "2.0e-04", "812", " GB", "2 min", "12.3%"):
        assert figure in shown, figure
    for text in ("reference:  a [bold] word", "hypothesis: a bald word", "a note [with] brackets"):
        assert text in shown


def test_the_advice_is_the_command_that_was_typed() -> None:
    typed = ["tiny-audio", "train", "+experiments=mosa", "data.path=a b", "output_dir=old"]
    out = Path("runs/x")
    rest = "output_dir=runs/x training.resume_from_checkpoint=last"
    assert resume_command(out, typed, 1) == (
        f"tiny-audio train +experiments=mosa 'data.path=a b' {rest}"
    )
    module = ["/lib/tiny_audio/__main__.py", "train", "training.resume_from_checkpoint=other"]
    assert resume_command(out, module, 1) == f"python -m tiny_audio train {rest}"
    assert resume_command(out, module, 4).startswith(
        "accelerate launch --num_processes=4 -m tiny_audio train "
    )
    assert "train()" in resume_command(out, None, 1)
