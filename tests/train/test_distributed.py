"""Two processes on one machine: together they do what one would."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train import sharded_worker
from tests.train.helpers import RESUME, TEXTS, arguments, rows, run, tiny
from tiny_audio.errors import CheckpointError

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
SHORT = (
    "training.max_steps=4",
    "training.eval_steps=2",
    "training.eval_utterances=4",
    "training.save_steps=2",
    "training.warmup_steps=0",
    "training.min_lr_rate=1",
)


def launch(data: Path, out: Path, *overrides: str) -> str:
    """Run two processes, as ``accelerate launch`` does where there are two GPUs."""
    command = [sys.executable, *TORCHRUN, "-m", "tiny_audio", "train"]
    done = subprocess.run(
        command + arguments(data, out, *SHORT, *overrides),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_make_the_updates_of_one(data: Path, tmp_path: Path) -> None:
    """Every global batch holds all eight utterances, whoever computes them."""
    same = (
        "training.batch_seconds=60",
        "training.spec_augment.freq_masks=0",
        "training.spec_augment.time_masks=0",
    )
    evaluated = tmp_path / "evaluated"
    shutil.copytree(data, evaluated)
    (evaluated / "v.wav").write_bytes(b"no sound")
    (evaluated / "v.txt").write_text("no sound")
    same += (f"data.eval_path={evaluated}",)
    said = launch(data, tmp_path / "two", *same, "data.pool=4")
    assert "rejected 1 of 17 samples" in said  # of both sets, each sample in one process
    shown = said.split("reference:")[1:4]
    assert [text.split("\n")[0].strip() for text in shown] == [TEXTS[0], TEXTS[2], TEXTS[4]]
    assert "2 processes" in said
    assert said.count("Trained 4 steps") == 1  # only one of them talks
    run(data, tmp_path / "one", *SHORT, *same, "data.pool=8")
    for kind, keys in (("train", ("loss", "grad_norm")), ("eval", ("eval_loss", "wer"))):
        two, one = rows(tmp_path / "two", kind), rows(tmp_path / "one", kind)
        assert len(two) == len(one)
        for key in keys:
            assert [r[key] for r in two] == pytest.approx([r[key] for r in one], rel=1e-4), key


@pytest.mark.slow
def test_two_processes_resume_where_both_were(data: Path, tmp_path: Path) -> None:
    launch(data, tmp_path / "whole")
    launch(data, tmp_path / "parts", "training.max_steps=2")
    launch(data, tmp_path / "parts", RESUME)
    for kind, key in (("train", "loss"), ("eval", "eval_loss")):
        parts, whole = rows(tmp_path / "parts", kind), rows(tmp_path / "whole", kind)
        assert [row[key] for row in parts] == [row[key] for row in whole]
    with pytest.raises(CheckpointError, match="2 processes, this one has 1"):
        run(data, tmp_path / "parts", *SHORT, RESUME)


@pytest.mark.slow
def test_fsdp_makes_the_updates_of_one_process(tmp_path: Path) -> None:
    """Gradients, clipping, gathered weights and a resume, against one process without FSDP."""
    command = [sys.executable, *TORCHRUN, "-m", "tests.train.sharded_worker", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    sharded = torch.load(tmp_path / "sharded.pt", weights_only=True)

    model = tiny(sharded_worker.LEARNS, dropout=False)
    alone = sharded_worker.trainer(model, tmp_path, sharded_worker.STEPS, sharded=False)
    alone.run()
    rows = alone.report.rows
    assert sharded["losses"] == pytest.approx([row["loss"] for row in rows], rel=1e-4)
    assert sharded["norms"] == pytest.approx([row["grad_norm"] for row in rows], rel=1e-3)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(sharded["weights"][name], value, atol=2e-4, rtol=1e-3, msg=name)
