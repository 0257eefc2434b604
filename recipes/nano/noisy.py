"""Recordings made harder before they are learned: joined, faster, slower, in noise, far away.

The encoder's recipe augments on the device; the house's own loop reads files, so the recogniser's
stage writes altered copies first. Each copy is one to three clips of the manifest with a pause
between, played at another speed, then put through the recipe's rooms, channels, noises and levels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from recipes.nano.augment import RATE, Augment, noise_bank, room_bank

LONGEST = 11.5  # seconds; the pair takes 12 at once
SPEEDS = (0.88, 1.14)
STRENGTH = 0.8  # of the augmentation
JOIN = 0.35  # probability that a further clip follows


def write_copies(manifest: Path, name: str, noises: Path, copies: int, seed: int) -> Path:
    """Write `copies` altered copies of every clip as FLAC beside the manifest, and list them.

    Args:
        manifest: JSON lines with audio_filepath, text and speaker.
        name: of the folder, and of the new manifest NAME.jsonl, which is kept where it exists.
        noises: folder of noises and room responses.
        seed: of everything random.
    """
    listed = manifest.with_name(f"{name}.jsonl")
    if listed.exists():
        return listed
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    clips = [soundfile.read(manifest.parent / row["audio_filepath"])[0] for row in rows]
    bank = torch.from_numpy(np.concatenate(clips)[: RATE * 3000] * 32768).short()
    cpu = torch.device("cpu")
    augment = Augment(noise_bank(noises, bank, cpu), room_bank(noises, cpu))
    folder = manifest.with_name(name)
    folder.mkdir(exist_ok=True)
    made: list[str] = []
    for first in list(range(len(rows))) * copies:
        wave, text = _joined(rows, clips, first, rng)
        speed = rng.uniform(*SPEEDS)
        wave = soxr.resample(wave, RATE * speed, RATE).astype(np.float32)
        batch = torch.from_numpy(wave)[None]
        altered = augment.wave(batch, torch.tensor([len(wave)]), STRENGTH)[0]
        file = f"{name}/{len(made):06d}.flac"
        soundfile.write(manifest.parent / file, altered.clamp(-1, 1).numpy(), RATE)
        speaker = rows[first].get("speaker")
        made.append(json.dumps({"audio_filepath": file, "text": text, "speaker": speaker}))
    part = listed.with_suffix(".part")
    part.write_text("\n".join(made) + "\n", encoding="utf-8")
    part.rename(listed)
    return listed


def _joined(
    rows: list[dict[str, str]], clips: list[np.ndarray], first: int, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """A clip and perhaps one or two more with pauses, as long as they fit; and their words."""
    wave, text = clips[first], rows[first]["text"]
    for _ in range(2):
        if rng.random() > JOIN:
            break
        other = int(rng.integers(len(rows)))
        pause = np.zeros(int(rng.uniform(0.1, 0.5) * RATE))
        longer = np.concatenate([wave, pause, clips[other]])
        if len(longer) > LONGEST * RATE * SPEEDS[0]:
            break
        wave, text = longer, f"{text} {rows[other]['text']}"
    return wave, text
