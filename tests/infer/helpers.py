"""Audio for the tests of inference."""

from pathlib import Path

import numpy as np
import soundfile


def tones(seconds: list[float], seed: int = 0) -> list[np.ndarray]:
    """Noise that swells and fades, each clip [S] at a pace of its own; float32, 16 kHz."""
    rng = np.random.default_rng(seed)
    clips = []
    for number, length in enumerate(seconds, 2):
        time = np.arange(int(length * 16_000)) / 16_000
        swell = 0.1 * np.sin(time * 7 * number)
        clips.append((rng.normal(size=len(time)) * swell).astype(np.float32))
    return clips


def write_wav(path: Path, clip: np.ndarray, rate: int = 16_000) -> str:
    """The clip as a file; returns its path."""
    soundfile.write(path, clip, rate, subtype="FLOAT")
    return str(path)
