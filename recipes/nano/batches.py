"""Training batches out of the pools of synthetic and real speech, and the sets to judge by."""

import time
from pathlib import Path

import numpy as np
import torch

from recipes.nano.augment import Augment, noise_bank, room_bank
from recipes.nano.pool import BUCKETS, RATE, Pool, Rows, join_rows, real_rows
from recipes.nano.text import Vocabulary


class Speech:
    """Training batches and test sets out of the pools of synthetic and real speech."""

    def __init__(
        self, work: Path, data: Path, vocabulary: Vocabulary, device: torch.device, hours: float
    ) -> None:
        self.work, self.device = work, device
        self.synthetic = Pool(vocabulary, hours, device)
        self.test = Pool(vocabulary, 1.0, device)
        self.real = Pool(vocabulary, 4.5, device)
        self.held_out = Pool(vocabulary, 1.5, device)
        train = data / "speech_train"
        if train.exists():
            self.real.add_real(train, real_rows(train, held_out=False))
            self.held_out.add_real(train, real_rows(train, held_out=True))
        self.noise_folder = data / "noise" if (data / "noise").exists() else None
        self.rng = np.random.default_rng(0)

    def refresh(self, least_hours: float) -> None:
        """Read new shards; wait until there is a test set and `least_hours` to train on."""
        while True:
            self.synthetic.add_shards(self.work / "speech", "train")
            self.test.add_shards(self.work / "speech", "test")
            if self.synthetic.hours >= least_hours and self.test.hours > 0:
                return
            time.sleep(1.0)

    def augment(self) -> Augment:
        """The augmentation with babble from the speech read so far."""
        clips = self.synthetic.pcm[: self.synthetic.used]
        noises = noise_bank(self.noise_folder, clips, self.device)
        return Augment(noises, room_bank(self.noise_folder, self.device))

    def batch(self, seconds: float, real: float, speed: float, short: bool) -> Rows:
        """About `seconds` of speech, a share `real` of it recordings, and a few silent rows."""
        rng, device = self.rng, self.device
        joined = 1 if short else int(rng.choice([1, 2, 3], p=[0.62, 0.23, 0.15]))
        bucket = int(rng.integers(0, 2)) if short else self.synthetic.bucket(rng, joined)
        width = BUCKETS[bucket]
        count = max(4, int(seconds / width))
        silent = 0 if short else max(1, count // 24)
        parts = []
        wanted = round(count * real)
        if wanted and self.real.used:
            first = self.real.draw(rng, bucket, joined, wanted)
            if len(first):
                parts.append(self.real.rows(rng, first, joined, speed, width))
        left = count - silent - sum(len(part.texts) for part in parts)
        first = self.synthetic.draw(rng, bucket, joined, left)
        parts.append(self.synthetic.rows(rng, first, joined, speed, width))
        if silent:
            wave = torch.zeros(silent, int(width * RATE), device=device)
            lengths = rng.integers(RATE // 2, wave.shape[1], silent)
            parts.append(
                Rows(wave, torch.from_numpy(lengths).to(device), [[]] * silent, [""] * silent)
            )
        return join_rows(parts)


def judging_batches(pool: Pool, most: int, size: int = 240) -> list[Rows]:
    """Clean batches of a test pool, shortest first; none of an empty pool."""
    if not pool.used:
        return []
    some = np.unique(np.linspace(0, len(pool.lengths) - 1, most).astype(int))
    order = some[np.argsort(pool.lengths[some])]
    rng = np.random.default_rng(0)
    pieces = [order[i : i + size] for i in range(0, len(order), size)]
    return [pool.rows(rng, piece, 1, 0.0) for piece in pieces]
