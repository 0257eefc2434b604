"""Trainings compared: one table each, printed and written to table.md in the output folder.

    python -m recipes.compare projectors  [--steps 400] [--seeds 0 1]
    python -m recipes.compare quickstarts [--seeds 0 1 2]
    python -m recipes.compare stages --manifest ../shared/data/speech_train/manifest.jsonl
    python -m recipes.compare silence --noises ../shared/data/noise

projectors: the four side by side: the bundled pair, synthetic speech, same steps, several seeds.
quickstarts: `tiny-audio quickstart` as a user runs it: word error rate, time, cliff; their median.
stages: 1, 2 and 3 in a row on real recordings, and what each left untouched, to the bit. Every
tenth speaker of the manifest, by a hash of its name, is kept for evaluation.
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
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file

from recipes.runs import Run, machine, markdown, quickstart, train

RATE = 16_000
PIECE = 10  # seconds
STAGES = (("transcription", "projector"), ("mlp_lora", "adapters"), ("mlp_fine_tune", "both"))


def at_the_end(steps: int) -> list[str]:
    """Settings of a run that is evaluated and saved once."""
    return [f"training.{key}={steps}" for key in ("max_steps", "eval_steps", "save_steps")]


def projectors(given: argparse.Namespace) -> str:
    """Train every projector with every seed, in turn; one row a run."""
    rows = []
    for kind in ("mlp", "mosa", "moe", "qformer"):
        for seed in given.seeds:
            run = train(
                given.out / f"{kind}-{seed}",
                [
                    "+experiments=quickstart",
                    f"model.projector.type={kind}",
                    *at_the_end(given.steps),
                    "data.eval.synthetic.max_samples=60",
                    "training.eval_utterances=60",
                    f"seed={seed}",
                    *given.overrides,
                ],
            )
            weights = load_file(run.checkpoint / "model.safetensors")
            rows.append(
                (
                    kind,
                    f"{sum(w.numel() for w in weights.values()):,}",
                    seed,
                    f"{run.last_eval['wer']:.1%}",
                    f"{run.last_eval['eval_loss']:.3f}",
                    run.cliff,
                    f"{run.seconds_per_step:.2f}",
                    f"{run.peak_gb:.1f}",
                )
            )
    columns = ("projector", "parameters", "seed", "WER", "eval loss", "cliff at step")
    return markdown((*columns, "s/step", "GB"), rows)


def quickstarts(given: argparse.Namespace) -> str:
    """One row a quickstart, from its report."""
    rows, rates = [], []
    for seed in given.seeds:
        run = quickstart(given.out / str(seed), seed)
        report = (run.folder / "report.md").read_text()
        took = re.search(r"\| time \| (.+?) \|", report)
        rate = re.search(r"sentences \| ([\d.]+)%", report)
        if took is None or rate is None:
            raise SystemExit(f"{run.folder / 'report.md'} is not a quickstart's report")
        rates.append(float(rate[1]))
        rows.append((seed, run.last_eval["step"], took[1], run.cliff, f"{rates[-1]:.1f} %"))
    columns = ("seed", "steps", "training", "cliff at step", "WER, unseen voices and sentences")
    return f"{markdown(columns, rows)}\n\nmedian {median(rates):.1f} %"


def stages(given: argparse.Namespace) -> str:
    """Train the three stages, each from the one before, and compare what they stored."""
    train_set, dev_set = split_by_speaker(given.manifest, given.out)
    runs: list[Run] = []
    rows = []
    for number, (experiment, learns) in enumerate(STAGES, 1):
        overrides = [
            f"+experiments={experiment}",
            "model=nano",
            "data=manifest",
            f"data.path={train_set}",
            f"data.eval_path={dev_set}",
            "data.labels.case=lower",
            "data.labels.punctuation=strip",
            "data.max_seconds=15",
            "data.num_workers=1",
            *at_the_end(given.steps),
            "training.warmup_steps=30",
            "training.learning_rate=0.003",
            "training.lora_learning_rate=0.001",
            "training.batch_seconds=24",
            "training.spec_augment.freq_width=12",
            "training.spec_augment.time_width=10",
            "training.eval_utterances=200",
            *([f"model.init_from={runs[-1].checkpoint}"] if runs else []),
            *given.overrides,
        ]
        runs.append(run := train(given.out / experiment, overrides))
        parts = json.loads((run.checkpoint / "tiny_audio.json").read_text())["parts"]
        wer, loss = f"{run.last_eval['wer']:.1%}", f"{run.last_eval['eval_loss']:.3f}"
        took = f"{run.seconds_per_step:.2f}"
        rows.append((number, experiment, learns, wer, loss, "+".join(parts), took))
    columns = ("stage", "experiment", "learns", "WER", "eval loss", "checkpoint holds", "s/step")
    checks = [
        f"stage 2 left the projector bit-identical: {same_projector(runs[0], runs[1])}",
        f"stage 3 changed it: {not same_projector(runs[1], runs[2])}",
        f"stage 1 stored no decoder and no adapter: {rows[0][5] == 'projector'}",
    ]
    return "\n".join([markdown(columns, rows), "", *checks])


def split_by_speaker(manifest: Path, out: Path, every: int = 10) -> tuple[Path, Path]:
    """Write train.jsonl and dev.jsonl; a speaker is in one of them only."""
    parts: dict[bool, list[str]] = {False: [], True: []}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        digest = hashlib.sha256(str(row["speaker"]).encode()).digest()
        path = (manifest.parent / row["audio_filepath"]).resolve()
        row["audio_filepath"] = os.path.relpath(path, out.resolve())
        parts[digest[0] % every == 0].append(json.dumps(row))
    for name, held_out in (("train", False), ("dev", True)):
        (out / f"{name}.jsonl").write_text("\n".join(parts[held_out]) + "\n", encoding="utf-8")
    return out / "train.jsonl", out / "dev.jsonl"


def same_projector(one: Run, other: Run) -> bool:
    """Whether two runs' last checkpoints hold the same projector, bit for bit."""
    a, b = (load_file(run.checkpoint / "model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


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
            overrides = ["+experiments=quickstart", f"seed={seed}", *at_the_end(given.steps)]
            folder = given.out / f"{'noisy' if extra else 'clean'}-{seed}"
            run = train(folder, [*overrides, *extra, *given.overrides])
            found = on_nonspeech(run, test)
            answered = f"{found['answered']['share']:.0%}"
            words = f"{found['insertions_per_minute']:.1f}"
            rows.append((seed, name, words, answered, f"{run.last_eval['wer']:.1%}"))
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


def on_nonspeech(run: Run, test: Path) -> dict[str, dict[str, float]]:
    """What `tiny-audio eval` finds on the pieces."""
    out = run.folder / "nonspeech"
    command = [sys.executable, "-m", "tiny_audio", "eval", str(run.checkpoint)]
    subprocess.run([*command, "--data", str(test), "--out", str(out)], check=True)
    found = json.loads((out / "summary.json").read_text())["hallucination"]["nonspeech"]
    return dict(found)


RECIPES: dict[str, tuple[Callable[[argparse.Namespace], str], int, Sequence[int]]] = {
    "projectors": (projectors, 400, [0, 1]),  # with the default steps and seeds
    "quickstarts": (quickstarts, 0, [0, 1, 2]),
    "stages": (stages, 300, []),
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
        if steps:
            one.add_argument("--steps", type=int, default=steps)
            one.add_argument("overrides", nargs="*", help="further key=value settings")
        if seeds:
            one.add_argument("--seeds", type=int, nargs="+", default=seeds)
        if name == "stages":
            one.add_argument("--manifest", type=Path, required=True)
        if name == "silence":
            one.add_argument("--noises", type=Path, required=True, help="has a manifest.jsonl")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    steps = f"{given.steps} steps, " if "steps" in given else ""
    text = f"{RECIPES[given.recipe][0](given)}\n\n{steps}{machine()}"
    (given.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
