"""Signal-to-noise ratio of a recording that comes without its noise: an estimate.

WADA-SNR (Kim and Stern, Interspeech 2008): the amplitudes of clean speech follow a Gamma
distribution of shape 0.4, those of noise a normal one, and how peaked a mixture is tells how much
there is of each. It needs no pauses and no model. Good to a few dB over a sentence or more; music
and hum, which are not normal, mislead it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# log(mean |x|) - mean(log |x|) of such mixtures, by dB of signal over noise: simulated with 15
# million samples each.
_DECIBELS = (-10, -5, 0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60)
_PEAKEDNESS = (
    0.4121, 0.4238, 0.4620, 0.5435, 0.6676, 0.8120, 0.9558, 1.0847, 1.1946, 1.2839, 1.3572, 1.4158,
    1.4626, 1.5294,
)  # fmt: skip
_LEAST = 400  # samples that are not exactly zero; of fewer nothing is said


def estimate_snr(waveform: NDArray[np.float32]) -> float | None:
    """Decibels of signal over noise in a waveform [S], from -10 to 60; None for silence.

    Samples that are exactly zero were put there by software and are left out.
    """
    loud = np.abs(waveform[waveform != 0], dtype=np.float64)
    if len(loud) < _LEAST:
        return None
    peakedness = np.log(loud.mean()) - np.log(loud).mean()
    return round(float(np.interp(peakedness, _PEAKEDNESS, _DECIBELS)), 1)
