"""Trainings compared: one table each, printed and written to table.md in the output folder.

    python -m recipes.compare projectors  [--steps 400] [--seeds 0 1] [--kinds mlp glm]
    python -m recipes.compare quickstarts [--seeds 0 1 2]
    python -m recipes.compare silence --noises ../shared/data/noise

projectors: all of them side by side: the bundled pair, synthetic speech, same steps, several seeds.
quickstarts: `tiny-audio quickstart` as a user runs it: word error rate, time, cliff; their median.
silence: does training on noise without words teach the model to be silent? The projector learns
with and without noise behind half of the clips and one clip in twenty left as noise alone. Every
second recording of the folder's manifest.jsonl is that noise; the others, cut into pieces of ten
seconds, with digital silence and hiss of our own, are the test: how many words a minute are
written where nobody speaks, and what the change costs on speech.

A run that is already in the output folder is not repeated. Further key=value settings stand before
the options.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch
from bench.common import machine
from safetensors.torch import load_file

from tiny_audio.model.projectors import PROJECTORS

RATE = 16_000
PIECE = 10  # seconds


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: Path
    training: list[dict[str, Any]]  # rows of metrics.jsonl
    last_eval: dict[str, Any]

    @property
    def cliff(self) -> str:
        """The step at which the loss first fell under what guessing from the text costs."""
        for row in self.training:
            if row["loss"] < 0.35 * row["guess_loss"]:
                return str(row["step"])
        return "not passed"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        index = json.loads((self.folder / "checkpoints" / "index.json").read_text())
        return self.folder / "checkpoints" / str(index["last"])


def run(folder: Path, *command: str) -> Run:
    """Run a ``tiny-audio`` command that trains into the folder, unless that was done already."""
    done = folder / "done.json"
    if not done.is_file():
        if subprocess.run([sys.executable, "-m", "tiny_audio", *command], check=False).returncode:
            raise SystemExit(f"{command[0]} in {folder} failed")  # its own message is on the screen
        done.write_text("{}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last_eval = [row for row in rows if row["kind"] == "eval"][-1]
    return Run(folder, [row for row in rows if row["kind"] == "train"], last_eval)


def train(folder: Path, steps: int, overrides: Sequence[str]) -> Run:
    """A training with the quickstart's settings that is evaluated and saved once, at its end."""
    ends = [f"training.{key}={steps}" for key in ("max_steps", "eval_steps", "save_steps")]
    output = [f"output_dir={folder}", "training.progress=false"]
    return run(folder, "train", "+experiments=quickstart", *ends, *overrides, *output)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def projectors(given: argparse.Namespace) -> str:
    """Train every projector with every seed, in turn; one row a run."""
    few = ["data.eval.synthetic.max_samples=60", "training.eval_utterances=60"]
    rows = []
    for kind in given.kinds:
        for seed in given.seeds:
            chosen = [f"model.projector.type={kind}", *few, f"seed={seed}", *given.overrides]
            done = train(given.out / f"{kind}-{seed}", given.steps, chosen)
            weights = load_file(done.checkpoint / "model.safetensors").values()
            rows.append(
                (
                    kind,
                    f"{sum(w.numel() for w in weights):,}",
                    seed,
                    f"{done.last_eval['wer']:.1%}",
                    f"{done.last_eval['eval_loss']:.3f}",
                    done.cliff,
                    f"{median(row['seconds_per_step'] for row in done.training[1:]):.2f}",
                    f"{max(row['memory_gb'] for row in done.training):.1f}",
                )
            )
    columns = ("projector", "parameters", "seed", "WER", "eval loss", "cliff at step")
    return markdown((*columns, "s/step", "GB"), rows)


def quickstarts(given: argparse.Namespace) -> str:
    """One row a quickstart."""
    rows, rates = [], []
    for seed in given.seeds:
        folder = given.out / str(seed)
        done = run(folder, "quickstart", "--seed", str(seed), "--out", str(folder))
        figures = json.loads((folder / "quickstart.json").read_text())
        took = f"{figures['training_seconds']:.0f} s"
        rates.append(100 * figures["wer"])
        rows.append((seed, figures["steps"], took, done.cliff, f"{rates[-1]:.1f} %"))
    columns = ("seed", "steps", "training", "cliff at step", "WER, unseen voices and sentences")
    return f"{markdown(columns, rows)}\n\nmedian {median(rates):.1f} %"


def silence(given: argparse.Namespace) -> str:
    """Train with and without noise, and count what is written where nobody speaks."""
    noise, test = split_noises(given.noises, given.out / "noises")
    noisy = [
        "data.augment.noise.p=0.5",
        f"data.augment.noise.path={noise}",
        "data.augment.noise_only=0.05",
    ]
    rows = []
    for seed in given.seeds:
        for name, extra in (("none", []), ("half of the clips, 5 % alone", noisy)):
            folder = given.out / f"{'noisy' if extra else 'clean'}-{seed}"
            done = train(folder, given.steps, [f"seed={seed}", *extra, *given.overrides])
            command = [sys.executable, "-m", "tiny_audio", "eval", str(done.checkpoint)]
            found = folder / "nonspeech"
            subprocess.run([*command, "--data", str(test), "--out", str(found)], check=True)
            summary = json.loads((found / "summary.json").read_text())["hallucination"]["nonspeech"]
            answered = f"{summary['answered']['share']:.0%}"
            words = f"{summary['insertions_per_minute']:.1f}"
            rows.append((seed, name, words, answered, f"{done.last_eval['wer']:.1%}"))
    nonspeech = ("words a minute on non-speech", "pieces answered")
    return markdown(("seed", "noise in training", *nonspeech, "WER, synthetic speech"), rows)


def split_noises(folder: Path, out: Path) -> tuple[Path, Path]:
    """Write train.jsonl (whole recordings) and test.jsonl (pieces without a transcript)."""
    out.mkdir(parents=True, exist_ok=True)
    listed = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    noises = [folder.resolve() / row["audio_filepath"] for row in listed if row["kind"] == "noise"]
    rng = np.random.default_rng(0)
    clips = [np.zeros(PIECE * RATE)]
    clips += [rng.normal(0, 10**power, PIECE * RATE) for power in (-4.0, -3.0, -2.0, -1.3)]
    for path in noises[1::2]:
        waveform, _ = soundfile.read(path, dtype="float32")
        clips += [waveform[i : i + PIECE * RATE] for i in range(0, len(waveform), PIECE * RATE)]
    pieces = []
    for number, clip in enumerate(clips):
        soundfile.write(out / f"piece-{number}.flac", clip, RATE)
        pieces.append({"audio_filepath": f"piece-{number}.flac", "text": ""})
    whole = [{"audio_filepath": str(path)} for path in noises[::2]]
    for name, rows in (("train", whole), ("test", pieces)):
        (out / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return out / "train.jsonl", out / "test.jsonl"


RECIPES: dict[str, tuple[Callable[[argparse.Namespace], str], int, Sequence[int]]] = {
    "projectors": (projectors, 400, [0, 1]),  # with the default steps and seeds
    "quickstarts": (quickstarts, 0, [0, 1, 2]),
    "silence": (silence, 400, [0, 1]),
}


def main() -> None:
    """Parse, train, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    recipes = parser.add_subparsers(dest="recipe", required=True)
    for name, (compare, steps, seeds) in RECIPES.items():
        one = recipes.add_parser(name, help=compare.__doc__)
        one.add_argument("--out", type=Path, default=Path("runs", name))
        one.add_argument("--seeds", type=int, nargs="+", default=seeds)
        if steps:
            one.add_argument("--steps", type=int, default=steps)
            one.add_argument("overrides", nargs="*", help="further key=value settings")
        if name == "projectors":
            one.add_argument("--kinds", nargs="+", default=list(PROJECTORS), choices=PROJECTORS)
        if name == "silence":
            one.add_argument("--noises", type=Path, required=True, help="has a manifest.jsonl")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    steps = f"{given.steps} steps, " if "steps" in given else ""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = f"{RECIPES[given.recipe][0](given)}\n\n{steps}{machine(device)}"
    (given.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
