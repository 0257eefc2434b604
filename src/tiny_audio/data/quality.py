"""Training samples whose sound or transcript cannot be right: silent, clipped, too fast, too slow.

Letters: S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.config import DataConfig
from tiny_audio.errors import AudioError, ConfigError, LabelRejected

FULL_SCALE = 0.999  # of 1; resampling and the mean of the channels move clipped samples a little
_FRAME = SAMPLE_RATE // 10  # loudness is measured over 0.1 s


@dataclass(frozen=True)
class QualityLimits:
    """What a training sample must keep to; evaluation data is taken as it is.

    A sample without words has no speech to measure: only the clipping limit holds for it.

    Args:
        chars_per_second: lowest and highest, of the label over the whole clip. Fast English speech
            has 25; where the transcript belongs to other audio the figure is far off.
        max_clipped: share of samples at full scale, from 0 to 1.
        silence_db: RMS of the loudest tenth of a second below which nothing can be heard, dBFS.
    """

    chars_per_second: tuple[float, ...]
    max_clipped: float
    silence_db: float

    def __post_init__(self) -> None:
        rates = self.chars_per_second
        if len(rates) != 2 or not 0 <= rates[0] < rates[1]:
            written = ",".join(f"{rate:g}" for rate in rates)
            raise ConfigError(
                f"data.chars_per_second=[{written}]: write [lowest,highest], none below 0"
            )
        if not 0 <= self.max_clipped <= 1:
            raise ConfigError(f"data.max_clipped={self.max_clipped:g} is a share: use 0 to 1")

    def check(self, waveform: npt.NDArray[np.float32], label: str) -> None:
        """Raise for a waveform [S] and its label that break a limit.

        Raises:
            AudioError: ``silent`` or ``clipped``.
            LabelRejected: ``few_chars_per_second`` or ``many_chars_per_second``.
        """
        if label:
            loudest = loudness(waveform)
            if loudest < self.silence_db:
                message = f"nowhere louder than {loudest:.0f} dBFS, under {self.silence_db:g}"
                raise AudioError(message, reason="silent")
        clipped = float(np.mean(np.abs(waveform) >= FULL_SCALE)) if len(waveform) else 0.0
        if clipped > self.max_clipped:
            message = f"{clipped:.1%} of the samples are clipped, over {self.max_clipped:.1%}"
            raise AudioError(message, reason="clipped")
        if label:
            self._check_rate(len(label) * SAMPLE_RATE / len(waveform))

    def _check_rate(self, rate: float) -> None:
        low, high = self.chars_per_second
        if rate < low:
            message = f"{rate:.2g} characters a second, under {low:g}"
            raise LabelRejected(message, reason="few_chars_per_second")
        if rate > high:
            message = f"{rate:.0f} characters a second, over {high:g}"
            raise LabelRejected(message, reason="many_chars_per_second")


def quality_limits(data: DataConfig) -> QualityLimits:
    """The limits that a configuration sets for training samples."""
    return QualityLimits(tuple(data.chars_per_second), data.max_clipped, data.silence_db)


def loudness(waveform: npt.NDArray[np.float32]) -> float:
    """RMS of the loudest tenth of a second of [S] in dBFS, a constant offset left out."""
    frames = waveform[: len(waveform) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not len(frames):
        frames = waveform[None]
    power = float(np.var(frames, axis=1, dtype=np.float64).max()) if frames.size else 0.0
    return 10 * float(np.log10(max(power, 1e-20)))
