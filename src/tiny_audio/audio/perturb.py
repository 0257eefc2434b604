"""Changes to a training waveform: speed, room, noise, bandwidth, telephone, gain. No randomness.

Each takes and returns a mono float32 waveform at 16 kHz; only `change_speed` changes its length.
For the masks on the log-mel see augment.py.

S samples, N samples of the noise, R samples of the room's response.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from tiny_audio.audio import SAMPLE_RATE

Wave = NDArray[np.float32]

_TELEPHONE_RATE = 8_000
_TELEPHONE_BAND = (300.0, 3_400.0)  # Hz, of ITU-T G.712
_MU = 255.0  # of the mu-law of ITU-T G.711
_EDGE = 0.1  # width of a filter's flank, relative to its frequency


def rms(waveform: NDArray[np.floating[Any]]) -> float:
    """Root mean square of [S]; 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0


def change_speed(waveform: Wave, factor: float) -> Wave:
    """Play [S] faster by `factor`: [S / factor], tempo and pitch together (Ko et al. 2015)."""
    played: Wave = soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")
    return _fitted(played, round(len(waveform) / factor))


def add_room(waveform: Wave, response: Wave) -> Wave:
    """Convolve [S] with an impulse response [R] -> [S], as loud as before.

    The direct sound, the response's strongest sample, stays where it was in time, and what
    rings on after the end is cut off.
    """
    size = 1 << (len(waveform) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(waveform.astype(np.float64), size)
    wet = np.fft.irfft(spectrum * np.fft.rfft(response.astype(np.float64), size), size)
    direct = int(np.argmax(np.abs(response)))
    wet = wet[direct : direct + len(waveform)]
    return _fitted((wet * (rms(waveform) / max(rms(wet), 1e-12))).astype(np.float32), len(waveform))


def noise_at(waveform: Wave, noise: Wave, snr_db: float) -> Wave:
    """The noise [S] as loud as `snr_db` under the waveform [S], by the RMS of both."""
    scale = rms(waveform) / max(rms(noise), 1e-12) / 10 ** (snr_db / 20)
    return (noise * np.float32(scale)).astype(np.float32)


def limit_band(waveform: Wave, low: float, high: float) -> Wave:
    """Keep what lies between two frequencies in Hz, without a delay."""
    size = 1 << (len(waveform) + SAMPLE_RATE // 10 - 1).bit_length()  # keeps the ends from meeting
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    rise = (hertz - low * (1 - _EDGE)) / (low * _EDGE) if low > 0 else np.ones_like(hertz)
    fall = (high * (1 + _EDGE) - hertz) / (high * _EDGE)
    spectrum = np.fft.rfft(waveform.astype(np.float64), size)
    kept = np.fft.irfft(spectrum * np.clip(rise, 0, 1) * np.clip(fall, 0, 1), size)
    return kept[: len(waveform)].astype(np.float32)


def telephone(waveform: Wave) -> Wave:
    """As it comes over a telephone line: 300 to 3400 Hz, 8 kHz, 8 bits of mu-law."""
    narrow = soxr.resample(
        limit_band(waveform, *_TELEPHONE_BAND), SAMPLE_RATE, _TELEPHONE_RATE, quality="HQ"
    )
    peak = max(float(np.abs(narrow).max(initial=0.0)), 1e-12)
    scaled = narrow / peak
    folded = np.sign(scaled) * np.log1p(_MU * np.abs(scaled)) / np.log1p(_MU)
    coded = np.round(folded * 127) / 127
    decoded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU * peak
    wide = soxr.resample(decoded.astype(np.float32), _TELEPHONE_RATE, SAMPLE_RATE, quality="HQ")
    return _fitted(wide, len(waveform))


def change_gain(waveform: Wave, gain_db: float) -> Wave:
    """Louder or softer by decibels."""
    return (waveform * np.float32(10 ** (gain_db / 20))).astype(np.float32)


def within_full_scale(waveform: Wave) -> Wave:
    """Scale down what would be louder than full scale."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return (waveform / np.float32(peak)).astype(np.float32) if peak > 1 else waveform


def _fitted(waveform: Wave, length: int) -> Wave:
    """Exactly `length` samples: resamplers round, and a room may ring shorter than it was cut."""
    if len(waveform) >= length:
        return np.ascontiguousarray(waveform[:length], dtype=np.float32)
    return np.pad(waveform, (0, length - len(waveform))).astype(np.float32)
