"""Small corpora of generated audio, and streams over them."""

import io
import json
import tarfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tiny_audio.config import SourceConfig
from tiny_audio.data.loader import TrainingStream
from tiny_audio.data.prepare import Preparer, TokenLimits
from tiny_audio.data.records import Source
from tiny_audio.data.sources import open_sources
from tiny_audio.model.batch import Batch
from tiny_audio.text.labels import LabelRules
from tiny_audio.text.prompt import Prompt


def audio_tokens(samples: int) -> int:
    """The default model's formula: 10 ms frames, halved, stacked by four."""
    frames = (samples // 160 - 1) // 2 + 1
    return max(0, (frames - 4) // 4 + 1)


def noise(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * 16_000))).astype(np.float32)


def clip(seconds: float, seed: int, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(seconds, seed), 16_000, format=kind)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_manifest(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_corpus(folder: Path, count: int, *, seed: int = 0, prefix: str = "u") -> Path:
    """A manifest with `count` WAV files of 0.3 to 1.5 s; the text of utterance n is "word n"."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        name = f"{prefix}{n:03d}.wav"
        soundfile.write(folder / name, noise(float(rng.uniform(0.3, 1.5)), seed * 1000 + n), 16_000)
        rows.append({"audio_filepath": name, "text": f"word {n}", "set": prefix})
    return write_manifest(folder / "manifest.jsonl", rows)


def spec(**values: Any) -> dict[str, Any]:
    """One source's settings, as the configuration hands them over."""
    settings = vars(SourceConfig()) | values
    if settings["kind"] == "manifest" and "audio_column" not in values:
        settings["audio_column"] = "audio_filepath"
    return settings


def open_one(**values: Any) -> Source:
    return open_sources({"main": spec(**values)}, key="data.train")[0]


def reading(prompt: Prompt, **changes: Any) -> dict[str, Any]:
    """How records are read, for a stream or an evaluation; what is not of it is passed on."""
    chosen: dict[str, Any] = {
        **{"rules": LabelRules(case="keep", punctuation="keep")},
        **{"min_seconds": 0.2, "max_seconds": 30.0, "quality": None, "augment": None},
    }
    chosen |= {name: changes.pop(name) for name in chosen.keys() & changes.keys()}
    limits = TokenLimits(prompt, audio_tokens, max_label_tokens=64)
    return {"preparer": Preparer(**chosen), "limits": limits, "num_workers": 0} | changes


def make_stream(sources: Sequence[Source], prompt: Prompt, **changes: Any) -> TrainingStream:
    settings = {"batch_seconds": 6.0, "max_utterances": 8, "pool": 16, "seed": 5}
    settings |= {"rank": 0, "world_size": 1} | reading(prompt, **changes)
    return TrainingStream(sources, [source.weight for source in sources], **settings)


def take(stream: TrainingStream, count: int) -> list[Batch]:
    return list(islice(stream, count))


def ids(batches: Sequence[Batch]) -> list[list[str]]:
    return [batch.ids for batch in batches]


def reject_lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    path = folder / (f"rejects-{rank}.jsonl" if rank else "rejects.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
