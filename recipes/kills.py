"""Does a run that was killed go on as if nothing had happened? Bit for bit, or this says where not.

    python -m recipes.kills --work DIR [--runs 20] [--steps 40] [--seed 0]

Trains the tiny pair on the CPU on a mixture of three sources with every kind of augmentation: once
without a break, then again and again, killed with SIGKILL at a random moment (the whole process
group, its workers too) and started anew, with no worker and with two in turns. After each the
samples of every step (a hash of their ids), the losses, the rejects and the final weights are
compared with those of the unbroken run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

TIMING = ("audio_seconds_per_second", "seconds_per_step", "memory_gb")


def make_data(folder: Path) -> None:
    """Three sources, a noise and a room: noise with words, some of it unusable."""
    rng = np.random.default_rng(0)
    for name, count in (("manifest", 30), ("folder", 17), ("other", 23), ("noise", 1), ("room", 1)):
        place = folder / name
        place.mkdir(parents=True)
        rows = []
        for n in range(count):
            sound = 0.05 * rng.standard_normal(int(rng.uniform(0.6, 2.0) * 16_000))
            if name == "room":
                sound *= np.exp(-np.arange(len(sound)) / 800)
            soundfile.write(place / f"{name}{n:02d}.wav", sound * (n % 11 != 5), 16_000)
            text = "" if n % 13 == 7 else f"{name} number {n}"
            (place / f"{name}{n:02d}.txt").write_text(text)
            rows.append(json.dumps({"audio_filepath": f"{name}{n:02d}.wav", "text": text}))
        (place / "manifest.jsonl").write_text("\n".join(rows) + "\n")


def command(data: Path, out: Path, *, steps: int, workers: int, resume: bool) -> list[str]:
    """The training to be killed."""
    folder = f"b: {{kind: folder, path: '{data}/folder', weight: 1}}"
    other = f"c: {{path: '{data}/other/manifest.jsonl', weight: 2, audio_column: audio_filepath}}"
    settings = [
        "model=tiny", "device=cpu", "data=manifest", f"data.path={data}/manifest/manifest.jsonl",
        "data.train.main.weight=3", f"+data.train={{{folder}, {other}}}",
        "data.holdout=4", "data.pool=16", f"data.num_workers={workers}",
        "data.augment.noise_only=0.1", f"data.augment.noise.path={data}/noise",
        f"data.augment.room.path={data}/room",
        *(f"data.augment.{kind}.p=0.5" for kind in ("speed", "noise", "gain", "band")),
        *(f"data.augment.{kind}.p=0.3" for kind in ("room", "telephone")),
        f"training.max_steps={steps}", "training.warmup_steps=5", "training.batch_seconds=8",
        "training.logging_steps=1", "training.save_steps=7", "training.eval_steps=20",
        "training.eval_utterances=2", "training.save_total_limit=2", "training.progress=false",
        "training.gradient_accumulation_steps=2", "model.projector.type=moe", f"output_dir={out}",
    ]  # fmt: skip
    if resume:
        settings.append("training.resume_from_checkpoint=last")
    return [sys.executable, "-m", "tiny_audio", "train", *settings]


def start(arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Start a training in a process group of its own; its words go to log.txt."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("ab") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)


def finish(arguments: list[str], out: Path) -> None:
    """Train to the end. Raises SystemExit with the last words of a training that fails."""
    if start(arguments, out).wait() != 0:
        raise SystemExit(f"training in {out} failed:\n{(out / 'log.txt').read_text()[-2_000:]}")


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock; a torn last line is left out."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def kill_at(process: subprocess.Popen[bytes], out: Path, rows: int, delay: float) -> int:
    """Kill a training `delay` seconds after it logged so many rows; the rows it had by then."""
    while process.poll() is None and len(rows_of(out)) < rows:
        time.sleep(0.01)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(rows_of(out))


def differences(whole: Path, parts: Path) -> list[str]:
    """What a run has otherwise than the unbroken one; nothing, if all is well."""
    expected, got = rows_of(whole), rows_of(parts)
    found = [] if len(expected) == len(got) else [f"{len(got)} rows, not {len(expected)}"]
    for one, other in zip(expected, got, strict=False):
        odd = [key for key in one if one[key] != other.get(key)]
        if odd:
            found.append(f"step {one['step']} ({one['kind']}): {', '.join(odd)}")
            break
    if (whole / "rejects.jsonl").read_bytes() != (parts / "rejects.jsonl").read_bytes():
        found.append("rejects.jsonl")
    if _weights(whole) != _weights(parts):
        found.append("final weights")
    return found


def _weights(out: Path) -> bytes:
    last = json.loads((out / "checkpoints" / "index.json").read_text())["last"]
    return (out / "checkpoints" / last / "model.safetensors").read_bytes()


def main() -> None:
    """Train whole, then killed and resumed so many times; one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    data, whole = given.work / "data", given.work / "whole"
    if given.work.exists() and any(given.work.iterdir()):
        raise SystemExit(f"{given.work} is not empty: name a new folder")
    make_data(data)
    began = time.perf_counter()
    finish(command(data, whole, steps=given.steps, workers=0, resume=False), whole)
    print(f"unbroken: {given.steps} steps in {time.perf_counter() - began:.0f} s", flush=True)
    rng, good = random.Random(given.seed), 0
    for number in range(1, given.runs + 1):
        out, workers = given.work / f"run-{number:02d}", 2 * (number % 2 == 0)
        again = partial(command, data, out, steps=given.steps, workers=workers)
        moment, delay = rng.randrange(given.steps), rng.uniform(0, 0.4)
        rows = kill_at(start(again(resume=False), out), out, moment, delay)
        resume = (out / "checkpoints" / "index.json").is_file()
        finish(again(resume=resume), out)
        found = differences(whole, out)
        went_on = "went on" if resume else "began anew, there was no checkpoint yet"
        verdict = f"DIFFERS in {'; '.join(found)}" if found else "equal"
        print(f"run {number}: {workers} workers, killed after {rows} rows, {went_on}: {verdict}")
        if not found:
            good += 1
            shutil.rmtree(out)
    print(f"{good}/{given.runs}")
    if good < given.runs:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
