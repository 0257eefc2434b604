"""Last stage: the projector that ships, trained by the house's own loop on the finished pair.

    python -m recipes.nano.recogniser --work DIR [--data DIR] [--flite FOLDER] [--steps N] [--keep]

Speech: everyday sentences made on the fly, book phrases spoken beforehand (espeak-ng, and flite
where its folder is given), the real recordings but the held-out tenth, and clips of noise and
silence whose transcript is empty. Both models stay frozen. The checkpoint is put where
``tiny_audio.load("nano")`` finds it, unless it is to be kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from recipes.nano.pool import real_rows
from recipes.nano.speech import speak_in_background, wait_for
from recipes.nano.text import clean, cut_books
from tiny_audio.compose import compose
from tiny_audio.config import Config, SourceConfig
from tiny_audio.model.resolve import BUNDLED
from tiny_audio.train.run import train

RATE = 16_000
WEIGHTS = {"synthetic": 0.38, "books": 0.27, "real": 0.3, "silence": 0.05}


def write_manifest(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write JSON lines."""
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def books(work: Path, data: Path, flite: Path | None, hours: float) -> Path:
    """Speak `hours` of book phrases with each engine, unless that was done, and list them."""
    if not (work / "phrases-train.txt").exists():
        cut_books(data / "text" / "books.txt.xz", work)
    folder = work / "speech"
    if not list(folder.glob("*-train-*.jsonl")):
        engines = [("espeak", 1, hours)] + ([(f"flite:{flite}", 1, hours)] if flite else [])
        wait_for(speak_in_background(work, engines, 600))
    rows: list[dict[str, object]] = []
    for shard in sorted(folder.glob("*-train-*.jsonl")):
        pcm = np.fromfile(shard.with_suffix(".pcm"), dtype=np.int16)
        (work / "books").mkdir(exist_ok=True)
        for number, line in enumerate(shard.read_text().splitlines()):
            row = json.loads(line)
            name = f"books/{shard.stem}-{number}.flac"
            if not (work / name).exists():
                clip = pcm[row["start"] : row["start"] + row["samples"]]
                soundfile.write(work / name, clip, RATE)
            rows.append({"audio_filepath": name, "text": row["text"], "speaker": row["voice"]})
    return write_manifest(work / "books.jsonl", rows)


def real(work: Path, data: Path, *, held_out: bool) -> Path:
    """The real recordings on one side of the recipe's split, transcripts cleaned."""
    folder = (data / "speech_train").resolve()
    rows: list[dict[str, object]] = [
        {
            "audio_filepath": str(folder / row["audio_filepath"]),
            "text": clean(row["text"]),
            "speaker": row["speaker"],
        }
        for row in real_rows(folder, held_out)
    ]
    return write_manifest(work / f"real-{'dev' if held_out else 'train'}.jsonl", rows)


def silence(work: Path, data: Path, seed: int = 0) -> Path:
    """Clips without a word: digital silence, quiet hiss, and pieces of the given noises."""
    rng = np.random.default_rng(seed)
    clips: list[np.ndarray] = [np.zeros(int(s * RATE), np.float32) for s in rng.uniform(0.5, 8, 30)]
    clips += [
        rng.normal(0, 10 ** rng.uniform(-4, -1.3), int(s * RATE)) for s in rng.uniform(0.5, 8, 60)
    ]
    for line in (data / "noise" / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "rir":
            continue
        wave, _ = soundfile.read(data / "noise" / row["audio_filepath"], dtype="float32")
        for _ in range(12):
            size = min(len(wave), int(rng.uniform(0.8, 10) * RATE))
            start = int(rng.integers(len(wave) - size + 1))
            clips.append(wave[start : start + size] * 10 ** rng.uniform(-1.5, 0))
    rows: list[dict[str, object]] = []
    offset = 0
    for clip in clips:
        rows.append({"audio_filepath": "silence.wav", "offset": offset / RATE, "text": ""})
        rows[-1]["duration"] = len(clip) / RATE
        offset += len(clip)
    soundfile.write(work / "silence.wav", np.concatenate(clips), RATE)
    return write_manifest(work / "silence.jsonl", rows)


def settings(
    manifests: dict[str, Path], dev: Path, out: Path, steps: int, extra: list[str]
) -> Config:
    """Settings of the run: four sources in the mixture, the held-out recordings to watch."""
    config = compose(
        [
            "+experiments=quickstart",
            "data.labels.allow_empty=true",
            f"data.train.synthetic.weight={WEIGHTS['synthetic']}",
            f"training.max_steps={steps}",
            f"training.eval_every={max(1, steps // 5)}",
            f"training.save_every={max(1, steps // 5)}",
            "training.eval_utterances=300",
            "training.batch_seconds=40",
            "training.spec_augment.freq_masks=1",
            "training.spec_augment.freq_width=12",
            "training.spec_augment.time_masks=2",
            "training.spec_augment.time_width=10",
            "training.progress=false",
            f"output_dir={out}",
            *extra,
        ]
    )
    for name, path in manifests.items():
        config.data.train[name] = _manifest(path, weight=WEIGHTS[name])
    config.data.eval["real"] = _manifest(dev, max_samples=200)
    return config


def _manifest(path: Path, **fields: Any) -> SourceConfig:
    return SourceConfig(kind="manifest", path=str(path), audio_column="audio_filepath", **fields)


def main() -> None:
    """Make the manifests, train, install."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--flite", type=Path, help="folder with Debian's libflite*.so.1")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--hours", type=float, default=1.5, help="of book phrases, each engine")
    parser.add_argument("--keep", action="store_true", help="leave the package's recogniser alone")
    parser.add_argument("extra", nargs="*", help="further key=value settings")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    manifests = {
        "books": books(work, given.data, given.flite, given.hours),
        "real": real(work, given.data, held_out=False),
        "silence": silence(work, given.data),
    }
    dev, out = real(work, given.data, held_out=True), work / "recogniser"
    train(settings(manifests, dev, out, given.steps, given.extra))
    index = json.loads((out / "checkpoints" / "index.json").read_text())
    if given.keep:
        print(f"{out}: step {index['last']}")
        return
    target = BUNDLED["nano"]
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns("training*")
    shutil.copytree(out / "checkpoints" / index["last"], target, ignore=ignored)
    told = target / "config.yaml"  # where its data lay means nothing elsewhere
    told.write_text(told.read_text().replace(f"{work}/", ""))
    print(f"{target}: step {index['last']}")


if __name__ == "__main__":
    mp.freeze_support()
    main()
