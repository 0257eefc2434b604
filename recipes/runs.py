"""What the comparing recipes share: train through the command line, read the figures back."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: Path
    rows: list[dict[str, Any]]  # metrics.jsonl

    @property
    def last_eval(self) -> dict[str, Any]:
        """The newest evaluation."""
        return [row for row in self.rows if row["kind"] == "eval"][-1]

    @property
    def seconds_per_step(self) -> float:
        """Median over the logged rows, the first left out."""
        return median(r["seconds_per_step"] for r in self._training()[1:])

    @property
    def peak_gb(self) -> float:
        """Most memory of the process (of the GPU where there is one) at any log line."""
        return max(float(row["memory_gb"]) for row in self._training())

    @property
    def cliff(self) -> str:
        """The step at which the loss first fell under what guessing from the text costs."""
        for row in self._training():
            if row["loss"] < 0.35 * row["guess_loss"]:
                return str(row["step"])
        return "not passed"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        index = json.loads((self.folder / "checkpoints" / "index.json").read_text())
        return self.folder / "checkpoints" / str(index["last"])

    def _training(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == "train"]


def train(folder: Path, overrides: Sequence[str]) -> Run:
    """Run ``tiny-audio train`` with the overrides, unless the folder holds its end already."""
    return _run(folder, "train", *overrides, f"output_dir={folder}", "training.progress=false")


def quickstart(folder: Path, seed: int) -> Run:
    """Run ``tiny-audio quickstart``, unless the folder holds its end already."""
    return _run(folder, "quickstart", "--seed", str(seed), "--out", str(folder))


def _run(folder: Path, *command: str) -> Run:
    done = folder / "done.json"
    if not done.is_file():
        if subprocess.run([sys.executable, "-m", "tiny_audio", *command], check=False).returncode:
            raise SystemExit(f"{command[0]} in {folder} failed")  # its own message is on the screen
        done.write_text("{}")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return Run(folder, [json.loads(line) for line in lines])


def machine() -> str:
    """One line about where figures come from."""
    device = "no GPU"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    cores = os.cpu_count()
    return f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {cores} cores, {device}, torch " + (
        torch.__version__
    )


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
