"""Synthetic speech in shards: espeak-ng, and flite where it is asked for.

A shard is `NAME.flac` (clips one after the other, runs of them in one voice, so that neighbours can
be joined) and its manifest `NAME.jsonl`, there when both are whole: a trainer may read meanwhile.
"""

import itertools
import json
import multiprocessing as mp
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from recipes.nano.text import corpus
from tiny_audio.data.grammar import sentences
from tiny_audio.data.synthetic import Synthesiser, Voice, draw_voice, resample

RATE = 16_000
SAME_VOICE = 6  # clips in a row


class Espeak:
    """espeak-ng voices; the split decides which variants are used."""

    def __init__(self) -> None:
        self.synthesiser = Synthesiser()

    def draw(self, rng: random.Random, split: str) -> Voice:
        return draw_voice(rng, split)

    def speak(self, text: str, voice: Voice) -> tuple[np.ndarray, str]:
        return self.synthesiser(text, voice), f"espeak/{voice.name}"


class Flite:
    """The voices of Debian's `flite` command (slt, rms, awb: real speakers' parameters)."""

    def draw(self, rng: random.Random, split: str) -> tuple[str, float]:
        names = ("slt", "rms", "awb", "slt", "rms", "awb", "kal16")
        return rng.choice(names), rng.uniform(0.75, 1.2)

    def speak(self, text: str, voice: tuple[str, float]) -> tuple[np.ndarray, str]:
        name, stretch = voice
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            options = ["-voice", name, "--setf", f"duration_stretch={stretch}", "-t", text]
            subprocess.run(["flite", *options, "-o", file.name], check=True)
            wave, rate = soundfile.read(file.name, dtype="float32")
        return resample(wave, rate), f"flite/{name}"


ENGINES: dict[str, type[Any]] = {"espeak": Espeak, "flite": Flite}


def draw_text(phrases: list[str], everyday: Iterator[str], rng: random.Random) -> str:
    """A phrase to speak: books and everyday sentences, short ones and single words too."""
    kind = rng.random()
    if kind < 0.36:
        return next(everyday)
    words = rng.choice(phrases).split()
    if kind < 0.50:
        start = rng.randrange(len(words))
        words = words[start : start + rng.randint(1, 4)]
    return " ".join(words[:26])


def draw_clips(
    engine: Any, phrases: list[str], split: str, seed: str, seconds: float
) -> Iterator[tuple[np.ndarray, str, str]]:
    """Clips int16 with text and voice, `seconds` in all; of a new engine the same by `seed`."""
    rng = random.Random(seed)
    everyday = sentences(rng.getrandbits(40), split)
    for number in itertools.count():
        if number % SAME_VOICE == 0:
            drawn = engine.draw(rng, split)
        wave, voice = engine.speak(text := draw_text(phrases, everyday, rng), drawn)
        loud = np.flatnonzero(np.abs(wave) > 0.003)
        if len(loud) < 2000:
            continue
        wave = wave[max(0, loud[0] - 1600) : loud[-1] + 1600]
        if not 0.25 <= len(wave) / 16000 <= 14 or np.abs(wave).max() < 0.01:
            continue
        wave = wave * (0.7 / np.abs(wave).max())
        yield (np.clip(wave, -1, 1) * 32767).astype(np.int16), text, voice
        seconds -= len(wave) / RATE
        if seconds <= 0:
            return


def write_shards(
    spec: str, work: Path, split: str, seed: int, hours: float, shard_s: float
) -> None:
    """Worker: speak until there are `hours` in shards of about `shard_s` seconds of audio.

    Shards that are there are kept, so a worker that was stopped goes on where it was.
    """
    if hasattr(os, "nice"):
        os.nice(10)  # the trainers beside it come first
    phrases = corpus(work, split, 0)
    engine = ENGINES[spec]()
    left, number = hours * 3600.0, 0
    while left > 1.0:
        name = f"{spec}-{split}-{seed}-{number}"
        number += 1
        audio, table = (work / "speech" / f"{name}.{end}" for end in ("flac", "jsonl"))
        if not table.exists():
            clips, rows, start = [], [], 0
            for clip, text, voice in draw_clips(engine, phrases, split, name, min(shard_s, left)):
                clips.append(clip)
                place = {"offset": start / RATE, "duration": len(clip) / RATE}
                row = {"audio_filepath": audio.name, **place, "text": text, "speaker": voice}
                rows.append(json.dumps(row))
                start += len(clip)
            soundfile.write(audio, np.concatenate(clips), RATE)
            Path(f"{table}.part").write_text("\n".join(rows))
            os.replace(f"{table}.part", table)
        left -= soundfile.info(audio).duration


def speak_in_background(
    work: Path, plan: list[tuple[str, int, float]], shard_s: float
) -> list[mp.process.BaseProcess]:
    """Start workers for a plan of (engine, workers, hours each) and for the test shards."""
    (work / "speech").mkdir(parents=True, exist_ok=True)
    context = mp.get_context("spawn")  # nothing of the trainer's goes along
    spoken = sum(workers * hours for _, workers, hours in plan)
    jobs = [("espeak", work, "test", 1, min(0.5, spoken), shard_s)]
    for spec, workers, hours in plan:
        for _ in range(workers):
            jobs.append((spec, work, "train", 1000 + len(jobs), hours, shard_s))
    started = [context.Process(target=write_shards, args=job, daemon=True) for job in jobs]
    for worker in started:
        worker.start()
    return list(started)


def wait_for(workers: list[mp.process.BaseProcess], poll_s: float = 1.0) -> None:
    """Wait until every worker is done; raises RuntimeError if one failed."""
    while any(worker.is_alive() for worker in workers):
        time.sleep(poll_s)
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a speech worker failed: see its traceback above")
