"""Stage 1, 2 and 3 in a row on real recordings, and what each left untouched.

    python -m recipes.stages --manifest ../shared/data/speech_train/manifest.jsonl [--steps 300]

The manifest's speakers are split: every tenth, by a hash of its name, is kept for evaluation and
never trained on. Prints WER and loss after each stage, and checks that stage 2 left the projector
and stage 1 the decoder as they were, to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from recipes.runs import Run, machine, markdown, train

STAGES = (("transcription", "projector"), ("mlp_lora", "adapters"), ("mlp_fine_tune", "both"))


def split_by_speaker(manifest: Path, out: Path, every: int = 10) -> tuple[Path, Path]:
    """Write train.jsonl and dev.jsonl; a speaker is in one of them only."""
    out.mkdir(parents=True, exist_ok=True)
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


def run_stages(
    out: Path, train_set: Path, dev_set: Path, steps: int, extra: list[str]
) -> list[Run]:
    """Train the three stages, each from the one before."""
    runs: list[Run] = []
    for experiment, _ in STAGES:
        overrides = [
            f"+experiments={experiment}",
            "model=nano",
            "data=manifest",
            f"data.path={train_set}",
            f"data.eval_path={dev_set}",
            "data.labels.case=lower",
            "data.labels.punctuation=strip",
            "data.max_seconds=15",
            f"training.max_steps={steps}",
            "training.warmup_steps=30",
            "training.learning_rate=0.003",
            "training.lora_learning_rate=0.001",
            "training.batch_seconds=24",
            "training.spec_augment.freq_width=12",
            "training.spec_augment.time_width=10",
            "data.num_workers=1",
            f"training.eval_steps={steps}",
            f"training.save_steps={steps}",
            "training.eval_utterances=200",
            *([f"model.init_from={runs[-1].checkpoint}"] if runs else []),
            *extra,
        ]
        runs.append(train(out / experiment, overrides))
    return runs


def same_projector(one: Run, other: Run) -> bool:
    """Whether two runs' last checkpoints hold the same projector, bit for bit."""
    a, b = (load_file(run.checkpoint / "model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def main() -> None:
    """Parse, train, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/stages"))
    parser.add_argument("overrides", nargs="*", help="further key=value settings")
    given = parser.parse_args()
    sets = split_by_speaker(given.manifest, given.out)
    runs = run_stages(given.out, *sets, given.steps, given.overrides)
    rows = []
    for number, ((experiment, learns), run) in enumerate(zip(STAGES, runs, strict=True), 1):
        parts = json.loads((run.checkpoint / "tiny_audio.json").read_text())["parts"]
        row = run.last_eval
        rows.append(
            (number, experiment, learns, f"{row['wer']:.1%}", f"{row['eval_loss']:.3f}",
             "+".join(parts), f"{run.seconds_per_step:.2f}")
        )  # fmt: skip
    columns = ("stage", "experiment", "learns", "WER", "eval loss", "checkpoint holds", "s/step")
    checks = [
        f"stage 2 left the projector bit-identical: {same_projector(runs[0], runs[1])}",
        f"stage 3 changed it: {not same_projector(runs[1], runs[2])}",
        f"stage 1 stored no decoder and no adapter: {rows[0][5] == 'projector'}",
    ]
    text = "\n".join([markdown(columns, rows), "", *checks, f"{given.steps} steps, {machine()}"])
    (given.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
