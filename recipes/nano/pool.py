"""All speech of the recipe in one int16 tensor on the device, and batches of it by gather.

B rows of a batch, S samples. A row is one clip or up to three neighbouring ones (same voice or
speaker) with pauses between them.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from recipes.nano.text import Vocabulary, clean

RATE = 16_000
# Row lengths of training batches, in seconds. Few shapes: FFT plans, kernels and the memory
# allocator are warm after one batch of each. Each plus 0.8 s for the room is a fast FFT size.
BUCKETS = (1.6, 2.4, 3.2, 4.0, 5.6, 7.2, 8.8, 12.0, 15.2, 19.2, 24.8)
# How often a clip is drawn: voices made from real speakers are few and slow to make.
WEIGHTS = {"flite": 3}


def is_held_out(row: dict[str, str]) -> bool:
    """The tenth of the real recordings kept out of training: by speaker, or by clip for kathleen.

    kathleen is one person, so a tenth of her prompts is kept out; the rest is speaker-disjoint.
    """
    if row["set"] == "kathleen":
        key = Path(row["audio_filepath"]).stem.split("_", 2)[1]  # the prompt, read more than once
    else:
        key = "speaker-" + row["speaker"]
    return zlib.crc32(key.encode()) % 10 == 3


def real_rows(folder: Path, held_out: bool) -> list[dict[str, str]]:
    """Manifest rows of the real recordings on one side of the split, neighbours by speaker."""
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if is_held_out(row) == held_out]
    return [row for row in rows if clean(row["text"])]


@dataclass
class Rows:
    """One batch before augmentation: wave [B, S] float32, lengths [B], token ids and texts."""

    wave: Tensor
    lengths: Tensor
    ids: list[list[int]]
    texts: list[str]


class Pool:
    """Clips of one kind; `add` may be called while training goes on."""

    def __init__(self, vocabulary: Vocabulary, hours: float, device: torch.device) -> None:
        self.vocabulary, self.device = vocabulary, device
        self.pcm = torch.zeros(int(hours * 3600 * RATE) + RATE, dtype=torch.int16, device=device)
        self.used = 0
        self.starts = np.zeros(0, dtype=np.int64)
        self.lengths = np.zeros(0, dtype=np.int64)
        self.voices = np.zeros(0, dtype=np.int64)
        self.weights = np.zeros(0, dtype=np.int64)
        self.numbers: dict[str, int] = {}
        self.texts: list[str] = []
        self.ids: list[tuple[list[int], list[int]]] = []  # of a text that begins or goes on
        self.read: set[str] = set()
        self.order: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def hours(self) -> float:
        """Speech held, in hours."""
        return float(self.lengths.sum()) / RATE / 3600

    def add(self, pcm: np.ndarray, rows: list[dict[str, Any]]) -> bool:
        """Add int16 samples and their manifest's rows; False when full."""
        if self.used + len(pcm) > len(self.pcm):
            return False
        self.pcm[self.used : self.used + len(pcm)] = torch.from_numpy(pcm).to(self.device)
        starts = [round(row["offset"] * RATE) + self.used for row in rows]
        self.starts = np.append(self.starts, starts)
        self.lengths = np.append(self.lengths, [round(row["duration"] * RATE) for row in rows])
        texts, voices = [row["text"] for row in rows], [row["speaker"] for row in rows]
        numbers = [self.numbers.setdefault(voice, len(self.numbers)) for voice in voices]
        self.voices = np.append(self.voices, numbers)
        weights = [WEIGHTS.get(voice.partition("/")[0], 1) for voice in voices]
        self.weights = np.append(self.weights, weights)
        begin = self.vocabulary.tokenizer.encode_batch(texts)
        go_on = self.vocabulary.tokenizer.encode_batch([" " + text for text in texts])
        self.texts += texts
        self.ids += [(a.ids, b.ids) for a, b in zip(begin, go_on, strict=True)]
        self.used += len(pcm)
        self.order.clear()
        return True

    def add_shards(self, folder: Path, split: str) -> int:
        """Add every shard of a split that was not read yet; returns how many there were."""
        new = [p for p in sorted(folder.glob(f"*-{split}-*.jsonl")) if p.name not in self.read]
        for path in new:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            self.add(soundfile.read(path.with_suffix(".flac"), dtype="int16")[0], rows)
            self.read.add(path.name)
        return len(new)

    def add_real(self, folder: Path, rows: list[dict[str, str]]) -> None:
        """Add real recordings of a manifest folder."""
        for row in rows:
            pcm, rate = soundfile.read(folder / row["audio_filepath"], dtype="int16")
            pcm = pcm if pcm.ndim == 1 else pcm[:, 0]
            if rate != RATE:
                raise ValueError(f"{row['audio_filepath']} has {rate} Hz: 16 kHz is needed")
            place = {"offset": 0.0, "duration": len(pcm) / RATE, "text": clean(row["text"])}
            self.add(pcm, [row | place])

    def _order(self, joined: int) -> tuple[np.ndarray, np.ndarray]:
        """First clips of runs of `joined` clips of one voice, shortest first, and their samples."""
        if joined not in self.order:
            first = np.arange(len(self.starts) - joined + 1)
            same = self.voices[first] == self.voices[first + joined - 1]
            total = np.add.reduce([self.lengths[first + j] for j in range(joined)])
            first = first[same & (total < 26 * RATE)]
            first = np.repeat(first, self.weights[first])
            total = np.add.reduce([self.lengths[first + j] for j in range(joined)])
            order = np.argsort(total, kind="stable")
            self.order[joined] = first[order], total[order]
        return self.order[joined]

    def bucket(self, rng: np.random.Generator, joined: int) -> int:
        """The bucket of a random run of `joined` clips."""
        _, totals = self._order(joined)
        seconds = totals[int(rng.integers(len(totals)))] / RATE + 0.3 * joined
        return int(min(np.searchsorted(BUCKETS, seconds), len(BUCKETS) - 1))

    def draw(self, rng: np.random.Generator, bucket: int, joined: int, count: int) -> np.ndarray:
        """First clips of `count` random runs that fit a bucket and not the one below (or none)."""
        order, totals = self._order(joined)
        spare = 0.3 * joined
        below = BUCKETS[bucket - 1] if bucket else 0.0
        low = int(np.searchsorted(totals, (below - spare) * RATE))
        high = int(np.searchsorted(totals, (BUCKETS[bucket] - spare) * RATE))
        return order[rng.integers(low, high, count)] if high > low else order[:0]

    def rows(
        self, rng: np.random.Generator, first: np.ndarray, joined: int, speed: float,
        seconds: float | None = None,
    ) -> Rows:  # fmt: skip
        """Gather rows; each is resampled by its own factor within 1 +- `speed` (pitch moves too).

        `seconds` is the width of the result; without it rows are as wide as the longest needs.
        """
        count = len(first)
        factor = np.exp(rng.uniform(-speed, speed, count))
        pauses = (rng.uniform(0.05, 0.45, (joined + 1, count)) * RATE).astype(np.int64)
        pauses[0] //= 2
        pauses[joined] //= 2
        if seconds is not None:
            total = np.add.reduce([self.lengths[first + j] for j in range(joined)])
            room = np.maximum(seconds * RATE - 8 - total / factor, 0.0)
            pauses = (pauses * np.minimum(1.0, room / pauses.sum(0))).astype(np.int64)
            factor = np.maximum(factor, total / (seconds * RATE - 8))
        offset = pauses[0].copy()
        pieces = []
        for j in range(joined):
            length = (self.lengths[first + j] / factor).astype(np.int64)
            pieces.append((self.starts[first + j], offset.copy(), length))
            offset += length + pauses[j + 1]
        width = int(offset.max()) if seconds is None else int(seconds * RATE)
        wave = torch.zeros(count, width, device=self.device)
        time = torch.arange(wave.shape[1], device=self.device)[None, :]
        speeds = torch.from_numpy(factor).to(self.device, torch.float32)[:, None]
        for start, at, length in pieces:
            begin, origin, size = (
                torch.from_numpy(x).to(self.device)[:, None] for x in (start, at, length)
            )
            relative = time - origin
            inside = (relative >= 0) & (relative < size - 1)
            exact = relative.clamp(min=0) * speeds
            whole = exact.long()
            index = torch.where(inside, begin + whole, 0)
            left, right = self.pcm[index].float(), self.pcm[index + 1].float()
            value = torch.lerp(left, right, exact - whole) / 32768.0
            wave = wave + torch.where(inside, value, 0.0)
        texts = [" ".join(self.texts[i + j] for j in range(joined)) for i in first]
        ids = [
            [token for j in range(joined) for token in self.ids[i + j][min(j, 1)]] for i in first
        ]
        return Rows(wave, torch.from_numpy(offset).to(self.device), ids, texts)


def join_rows(parts: list[Rows]) -> Rows:
    """One batch of several, padded to the longest."""
    longest = max(part.wave.shape[1] for part in parts)
    waves = [torch.nn.functional.pad(p.wave, (0, longest - p.wave.shape[1])) for p in parts]
    return Rows(
        torch.cat(waves),
        torch.cat([p.lengths for p in parts]),
        [ids for p in parts for ids in p.ids],
        [text for p in parts for text in p.texts],
    )
