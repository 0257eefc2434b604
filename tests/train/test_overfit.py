"""The whole machine: train on eight utterances through the command line, load, transcribe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.train.helpers import TEXTS, arguments, rows


def tiny_audio(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tiny_audio", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tiny_pair_learns_eight_utterances_by_heart(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = tiny_audio(
        "train",
        *arguments(
            data,
            out,
            "training.learns=[projector,lora]",  # its random decoder must learn to write, too
            "model.lora.r=16",
            "training.learning_rate=3e-3",
            "training.lora_learning_rate=1e-2",
            "training.max_steps=150",
            "training.eval_steps=75",
            "training.logging_steps=10",
            "training.batch_seconds=60",
            "training.spec_augment.freq_masks=0",
            "training.spec_augment.time_masks=0",
        ),
    )
    assert rows(out, "eval")[-1]["wer"] == 0.0
    assert "WER 0.0%" in said
    files = [str(data / f"u{i}.wav") for i in range(len(TEXTS))]
    lines = tiny_audio("transcribe", *files, "--model", str(out), "--json", "--device", "cpu")
    assert tuple(json.loads(line)["text"] for line in lines.splitlines()) == TEXTS
