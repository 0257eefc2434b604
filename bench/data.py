"""How fast recordings become batches, and whether memory stays flat while they do.

``audio s/s`` is by the clock; ``and core`` by the processor time of this process and its workers,
which a busy machine changes much less.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import soundfile

from bench.common import print_rows
from bench.load import durations, text_tokens
from tiny_audio.audio.io import load_audio
from tiny_audio.config import AugmentConfig, DataConfig, SourceConfig, TrainingConfig
from tiny_audio.data.augment import Augmenter, open_augmenter
from tiny_audio.data.loader import TrainingStream
from tiny_audio.data.prepare import Preparer, TokenLimits, quality_limits
from tiny_audio.data.records import IndexedSource, Record, Source
from tiny_audio.data.sources import open_sources
from tiny_audio.model.decoder import byte_tokenizer
from tiny_audio.text.labels import LabelRules
from tiny_audio.text.prompt import Prompt

RATE = 16_000
TARGET = 300  # seconds of FLAC a second and core, without augmentation
FORMATS = {"FLAC": ("flac", {}), "Opus": ("opus", {"format": "OGG", "subtype": "OPUS"})}
REPEATS = 3
FLAT = 32 * 2**20  # bytes of growth from a tenth of the samples to all that are no leak
Wave = npt.NDArray[np.float32]


def speechlike(seconds: float, seed: int) -> Wave:
    """A voice without words: harmonics that glide, in syllables, with breath. float32 [S]."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 16))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(3, 5) * t), 0, 1) ** 2
    breath = rng.standard_normal(len(t)) * 0.01
    return (0.1 * voice * syllables + breath * (0.1 + syllables)).astype(np.float32)


def make_corpus(folder: Path, kind: str, count: int) -> Path:
    """A manifest of `count` recordings of a voice without words in one format."""
    suffix, how = FORMATS[kind]
    folder.mkdir()
    rows = []
    for number, seconds in enumerate(durations("speech", count)):
        soundfile.write(folder / f"{number}.{suffix}", speechlike(seconds, number), RATE, **how)
        text = " ".join(["word"] * text_tokens(seconds))
        row = {"audio_filepath": f"{number}.{suffix}", "text": text, "duration": seconds}
        rows.append(json.dumps(row))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(rows))
    return manifest


def make_augmenter(folder: Path) -> Augmenter:
    """Every kind of change with probability one half, on generated noises and rooms."""
    rng = np.random.default_rng(0)
    for kind, seconds, decay in (("noise", 20.0, 0.0), ("room", 0.5, 12.0)):
        (folder / kind).mkdir()
        for number in range(4):
            size = int(seconds * RATE)
            wave = 0.1 * rng.standard_normal(size) * np.exp(-decay * np.arange(size) / RATE)
            soundfile.write(folder / kind / f"{number}.flac", wave, RATE)
    config = AugmentConfig()
    for kind in ("speed", "room", "noise", "band", "telephone", "gain"):
        getattr(config, kind).p = 0.5
    config.room.path, config.noise.path = str(folder / "room"), str(folder / "noise")
    limits = {"min_seconds": DataConfig.min_seconds, "max_seconds": DataConfig.max_seconds}
    made = open_augmenter(asdict(config), seed=0, **limits)
    assert made is not None
    return made


def hiss(seed: int) -> Wave:
    """A quarter of a second of noise."""
    return np.float32(0.1) * np.random.default_rng(seed).standard_normal(RATE // 4, np.float32)


class Generated(IndexedSource):
    """So many records with audio that exists only while it is used."""

    def __init__(self, count: int) -> None:
        super().__init__("generated", 1.0, None)
        self.size = count

    def read(self, index: int) -> Record:
        return Record(f"g{index}", self.name, partial(hiss, index), f"n {index % 10}")


def run(samples: int) -> bool:
    """Print both tables; returns whether FLAC reaches its target and memory stays flat."""
    print("\n### data: from files to batches\n")
    print_rows(("", "audio s/s", "audio s/s and core"), ("---", "---:", "---:"))
    reached = True
    with TemporaryDirectory() as folder:
        augment = make_augmenter(Path(folder))
        for kind in FORMATS:
            for name, work in _steps(make_corpus(Path(folder, kind), kind, 96), augment):
                found = [_timed(work) for _ in range(REPEATS)]
                wall, core = (median(f[i] for f in found) for i in (0, 1))
                print_rows((f"{kind}: {name}", f"{wall:,.0f}", f"{core:,.0f}"))
                if kind == "FLAC" and "augment" not in name:
                    reached &= core >= TARGET
    print(f"\ntarget: {TARGET} for FLAC without augmentation: {'held' if reached else 'MISSED'}")
    return flat(samples) and reached


def _steps(
    manifest: Path, augment: Augmenter
) -> Iterator[tuple[str, Callable[[], Iterator[float]]]]:
    """The rows: each yields the seconds of audio that it has just done."""
    (source,) = _open(manifest)
    records: list[Any] = [*source.records()]
    clean = _preparer()

    def decoded() -> Iterator[float]:
        return (len(load_audio(record.audio)) / RATE for record in records)

    def prepared(preparer: Preparer) -> Iterator[float]:
        return (preparer(record).seconds for record in records)

    def batches(workers: int, augment: Augmenter | None = None) -> Iterator[float]:
        found = stream(_open(manifest), num_workers=workers, augment=augment)
        return (float(batch.waveform_lengths.sum()) / RATE for batch in found)

    yield "decode", decoded
    yield "+ clean", partial(prepared, clean)
    for workers in (0, 1, 2):
        yield f"+ batch, {workers} workers", partial(batches, workers)
    yield "clean + augment", partial(prepared, replace(clean, augment=augment))
    yield "clean + augment + batch, 2 workers", partial(batches, 2, augment)


def stream(
    sources: list[Source], augment: Augmenter | None = None, **changes: Any
) -> TrainingStream:
    """Batches as training with default settings reads them."""
    data, training = DataConfig(), TrainingConfig()
    prompt = Prompt.from_tokenizer(byte_tokenizer())
    settings: dict[str, Any] = {
        "preparer": replace(_preparer(), augment=augment),
        "limits": TokenLimits(prompt, lambda n: n // (RATE // 12), data.max_label_tokens),
        "batch_seconds": training.batch_seconds,
        "max_utterances": training.max_utterances,
        "pool": data.pool,
        "num_workers": data.num_workers,
        "seed": 0,
        "rank": 0,
        "world_size": 1,
    }
    return TrainingStream(sources, [1.0] * len(sources), **(settings | changes))


def _preparer() -> Preparer:
    data = DataConfig()
    return Preparer(LabelRules(), data.min_seconds, data.max_seconds, quality_limits(data))


def _open(manifest: Path) -> list[Source]:
    spec = vars(SourceConfig(path=str(manifest), audio_column="audio_filepath"))
    return open_sources({"main": spec}, key="data.train")


def _timed(work: Callable[[], Iterator[float]], at_least: float = 1500.0) -> tuple[float, float]:
    """Seconds of audio a second of the clock, and a second of the processor.

    The first item is not counted: before it, workers start and a pool is filled.
    """
    done = work()
    next(done)
    start, used, audio = time.perf_counter(), _processor_time(), 0.0
    for seconds in done:
        audio += seconds
        if audio >= at_least:
            break
    wall, core = time.perf_counter() - start, _processor_time() - used
    return audio / wall, audio / core


def _processor_time() -> float:
    """Seconds of processor time that this process and its workers have used."""
    return sum(p.cpu_times().user + p.cpu_times().system for p in _processes())


def _processes() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def flat(samples: int) -> bool:
    """Print the memory of a stream after a tenth of the samples and after all of them."""
    print(f"\n### data: memory over {samples:,} samples (one worker)\n")
    print_rows(["samples", "this process", "worker"], ["---:"] * 3)
    marks = [samples // 10, samples // 2, samples]
    held: list[tuple[float, float]] = []
    seen = 0
    reading = stream([Generated(2 * samples)], num_workers=1)
    for batch in reading:
        seen += len(batch.ids)
        if seen >= marks[len(held)]:
            own, *workers = (p.memory_info().rss for p in _processes())
            held.append((own, sum(workers)))
            shown = [f"{size / 2**20:,.0f} MiB" for size in held[-1]]
            print_rows([f"{seen:,}", *shown])
            if len(held) == len(marks):
                break
    assert not reading.rejects.total, reading.rejects.summary()
    grown = [last - first for first, last in zip(held[0], held[-1], strict=True)]
    ok = max(grown) < FLAT
    print(f"\nmemory: {'flat' if ok else 'GROWS'} ({max(grown) / 2**20:+.1f} MiB at the most)")
    return ok
