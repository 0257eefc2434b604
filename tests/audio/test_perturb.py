"""Each change to a waveform does to the signal what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_audio.audio import SAMPLE_RATE, perturb


def tone(hertz: float, seconds: float = 1.0, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def hiss(seconds: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))
    return (0.1 * samples).astype(np.float32)


def pitch(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 18))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / (1 << 18)


def band_db(waveform: np.ndarray, low: float, high: float) -> float:
    """Power between two frequencies, in dB."""
    power = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    return 10 * float(np.log10(power[(hertz >= low) & (hertz < high)].sum() + 1e-20))


@given(st.floats(-10, 40), st.floats(0.1, 2.0), st.integers(0, 9))
def test_noise_lowers_the_snr_to_what_was_asked(snr: float, seconds: float, seed: int):
    speech, noise = tone(300, seconds), 3 * hiss(seconds, seed)
    added = perturb.noise_at(speech, noise, snr).astype(np.float64)
    measured = 10 * np.log10(np.sum(speech.astype(np.float64) ** 2) / np.sum(added**2))
    assert measured == pytest.approx(snr, abs=1e-3)
    assert added.shape == speech.shape


@given(st.floats(0.5, 2.0), st.floats(0.2, 2.0))
def test_speed_moves_length_and_pitch_alike(factor: float, seconds: float):
    fast = perturb.change_speed(tone(1_000, seconds), factor)
    assert len(fast) == round(round(seconds * SAMPLE_RATE) / factor)
    assert fast.dtype == np.float32
    assert pitch(fast) == pytest.approx(1_000 * factor, rel=0.01)


@pytest.mark.parametrize("delay", [0, 80, 700])
def test_a_room_equals_the_convolution_and_moves_nothing(delay: int):
    speech = hiss(1.0)
    tail = hiss(0.3, 5) * np.exp(-np.arange(4_800) / 700)
    response = np.concatenate([np.zeros(delay), [1.0], tail]).astype(np.float32)
    wet = perturb.add_room(speech, response)
    direct = np.convolve(speech, response)[delay : delay + len(speech)]
    assert wet.shape == speech.shape
    assert np.corrcoef(wet, direct)[0, 1] > 0.999999
    assert perturb.rms(wet) == pytest.approx(perturb.rms(speech), rel=1e-4)
    lag = np.argmax(np.correlate(wet, speech[500:-500], mode="valid")) - 500
    assert lag == 0
    assert np.allclose(perturb.add_room(speech, np.array([0.5], np.float32)), speech, atol=1e-6)


@pytest.mark.parametrize("edge", [3_000.0, 5_000.0, 6_500.0])
def test_a_band_keeps_what_is_below_and_removes_what_is_above(edge: float):
    wide = hiss(2.0)
    narrow = perturb.limit_band(wide, 0.0, edge)
    assert band_db(narrow, 50, edge) == pytest.approx(band_db(wide, 50, edge), abs=0.1)
    assert band_db(narrow, edge * 1.15, 8_001) < band_db(wide, edge * 1.15, 8_001) - 60
    assert np.abs(np.correlate(narrow, wide[9:-9])).argmax() == 9  # no delay


def test_a_telephone_carries_speech_and_nothing_else():
    wide = hiss(2.0)
    line = perturb.telephone(wide)
    assert line.shape == wide.shape
    assert band_db(line, 400, 3_200) == pytest.approx(band_db(wide, 400, 3_200), abs=0.3)
    assert band_db(line, 4_100, 8_001) < band_db(line, 400, 3_200) - 40
    assert band_db(line, 0, 200) < band_db(line, 400, 3_200) - 20
    clean = tone(1_000)
    error = perturb.telephone(clean) - clean
    assert 30 < 20 * np.log10(perturb.rms(clean) / perturb.rms(error[800:-800])) < 45  # 8 bits


def test_gain_is_in_decibels_and_full_scale_holds():
    speech = tone(300)
    assert perturb.rms(perturb.change_gain(speech, -6.0)) == pytest.approx(
        perturb.rms(speech) * 10**-0.3, rel=1e-5
    )
    loud = perturb.within_full_scale(perturb.change_gain(speech, 40.0))
    assert np.abs(loud).max() == pytest.approx(1.0)
    assert np.corrcoef(loud, speech)[0, 1] > 0.9999
    assert perturb.within_full_scale(speech) is speech


@pytest.mark.parametrize("samples", [1, 2, 159, 1_600])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_short_and_silent_clips_stay_finite(samples: int, value: float):
    clip = np.full(samples, value, np.float32)
    other = hiss(0.5)
    for changed in (
        perturb.add_room(clip, other),
        perturb.noise_at(clip, other[:samples], 5.0),
        perturb.noise_at(other[:samples], np.zeros(samples, np.float32), 5.0),
        perturb.limit_band(clip, 300, 3_000),
        perturb.telephone(clip),
        perturb.change_gain(clip, 6.0),
    ):
        assert changed.shape == clip.shape
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
    assert np.isfinite(perturb.change_speed(clip, 1.1)).all()
