"""Does training on noise without words teach the model to be silent? Before and after.

    python -m recipes.silence --noises ../shared/data/noise [--steps 400] [--seeds 0 1]

Trains the bundled pair's projector twice on the same synthetic speech, once as it is and once with
noise behind half of the clips and one clip in twenty left as noise without words. Every second
recording of `manifest.jsonl` in the folder is that noise; the others, cut into pieces of ten
seconds, with digital silence and hiss of our own, are the test: how many words a minute are
written where nobody speaks, and what the change costs on speech.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from recipes.runs import Run, machine, markdown, train

RATE = 16_000
PIECE = 10  # seconds
COLUMNS = ("seed", "noise in training", "words a minute on non-speech", "pieces answered",
           "WER, synthetic speech")  # fmt: skip


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
    rows = []
    for number, clip in enumerate(clips):
        soundfile.write(out / f"piece-{number}.flac", clip, RATE)
        rows.append({"audio_filepath": f"piece-{number}.flac", "text": ""})
    for name, lines in (("train", [{"audio_filepath": str(p)} for p in noises[::2]]),
                        ("test", rows)):  # fmt: skip
        (out / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return out / "train.jsonl", out / "test.jsonl"


def nonspeech(run: Run, test: Path) -> dict[str, float]:
    """What `tiny-audio eval` finds on the pieces: `insertions_per_minute`, `answered`."""
    out = run.folder / "nonspeech"
    command = [sys.executable, "-m", "tiny_audio", "eval", str(run.checkpoint)]
    subprocess.run([*command, "--data", str(test), "--out", str(out)], check=True)
    summary = json.loads((out / "summary.json").read_text())
    found = summary["hallucination"]["nonspeech"]
    return {"rate": found["insertions_per_minute"], "answered": found["answered"]["share"]}


def main() -> None:
    """Parse, train, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noises", type=Path, required=True, help="folder with manifest.jsonl")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("runs/silence"))
    given = parser.parse_args()
    noise, test = split_noises(given.noises, given.out / "noises")
    noisy = ["data.augment.noise.p=0.5", f"data.augment.noise.path={noise}",
             "data.augment.noise_only=0.05"]  # fmt: skip
    rows = []
    for seed in given.seeds:
        for name, extra in (("none", []), ("half of the clips, 5 % alone", noisy)):
            steps = [f"{key}={given.steps}" for key in ("training.max_steps", "training.eval_steps",
                                                        "training.save_steps")]  # fmt: skip
            folder = given.out / f"{'noisy' if extra else 'clean'}-{seed}"
            run = train(folder, ["+experiments=quickstart", f"seed={seed}", *steps, *extra])
            found = nonspeech(run, test)
            rows.append((seed, name, f"{found['rate']:.1f}", f"{found['answered']:.0%}",
                         f"{run.last_eval['wer']:.1%}"))  # fmt: skip
    text = f"{markdown(COLUMNS, rows)}\n\n{given.steps} steps, {machine()}"
    (given.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
