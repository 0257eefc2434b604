"""Stretches of long recordings: what decoding the whole gives there, without doing so."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from tests.audio.encoding import encoded

from tiny_audio.audio.decode import read_stretch
from tiny_audio.audio.io import load_audio
from tiny_audio.errors import AudioError

STRETCHES = [(0.0, 1.0), (0.3, 0.7), (7.123, 2.0), (8.00001, 0.5), (10.9, 1.1)]


def sound(rate: int, kind: str, codec: str, channels: int = 1, seconds: int = 12) -> bytes:
    rng = np.random.default_rng(rate)
    t = np.arange(seconds * rate)[:, None] / rate
    tone = 0.3 * np.sin(2 * np.pi * (150 + 40 * np.sin(t)) * t)
    samples = tone + 0.05 * rng.standard_normal((len(t), channels))
    return encoded(samples.astype(np.float32), rate, kind, codec)


@pytest.mark.parametrize(
    ("kind", "codec", "rate", "channels", "tolerance"),
    [
        *((kind, "PCM_16", 16_000, 1, 0.0) for kind in ("WAV", "FLAC", "AIFF")),
        *((kind, "PCM_16", 16_000, 2, 0.0) for kind in ("WAV", "FLAC")),
        *(("WAV", "PCM_16", rate, 1, 2e-6) for rate in (8_000, 11_025, 44_100)),
        *(("FLAC", "PCM_16", rate, 1, 2e-6) for rate in (22_050, 48_000)),
        *(("OGG", codec, 16_000, 1, 1e-3) for codec in ("VORBIS", "OPUS")),
        *((kind, "aac", 44_100, 1, 1e-4) for kind in ("ipod", "adts", "matroska")),
        ("mp3", "libmp3lame", 44_100, 1, 1e-4),
    ],
)
def test_a_stretch_is_the_same_to_the_sample(kind, codec, rate, channels, tolerance):
    data = sound(rate, kind, codec, channels)
    whole = load_audio(data)
    for offset, duration in STRETCHES:
        start, count = round(offset * 16_000), round(duration * 16_000)
        got = load_audio(data, offset=offset, duration=duration)
        assert got.dtype == np.float32
        wanted = whole[start : start + count]
        assert np.abs(got - wanted).max() <= tolerance  # a sample off would be 0.05
        sought = read_stretch(
            io.BytesIO(data), start, start + count
        )  # what comes before is skipped
        assert (sought is not None) == kind.isupper()


def test_past_the_end_there_is_what_is_left():
    data = sound(16_000, "WAV", "PCM_16")
    whole = load_audio(data)
    assert np.array_equal(load_audio(data, offset=11.5, duration=2.0), whole[-8_000:])
    assert np.array_equal(load_audio(data, offset=11.5), whole[-8_000:])
    assert load_audio(data, offset=50.0, duration=2.0).size == 0
    assert np.array_equal(load_audio(whole, offset=3.0, duration=0.5), whole[48_000:56_000])


def test_damage_elsewhere_does_no_harm_but_damage_here_does(tmp_path: Path):
    data = sound(16_000, "WAV", "PCM_16")
    path = tmp_path / "cut.wav"
    path.write_bytes(data[: len(data) // 2])
    wanted = load_audio(data)[32_000:48_000]
    assert np.array_equal(load_audio(path, offset=2.0, duration=1.0), wanted)
    with pytest.raises(AudioError, match="breaks off"):
        load_audio(path, offset=9.0, duration=1.0)
    path.write_text("no audio at all")
    with pytest.raises(AudioError, match="not in an audio"):
        load_audio(path, offset=1.0, duration=1.0)
