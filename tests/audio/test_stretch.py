"""Stretches of long recordings: what decoding the whole gives there, without doing so."""

from __future__ import annotations

import io
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from tiny_audio.audio.io import load_audio
from tiny_audio.audio.stretch import read_stretch
from tiny_audio.errors import AudioError

SECONDS = 40
STRETCHES = [(0.0, 1.0), (0.3, 0.7), (7.123, 2.0), (20.00001, 0.5), (38.9, 1.1)]


def sound(rate: int, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(rate)
    t = np.arange(SECONDS * rate)[:, None] / rate
    tone = 0.3 * np.sin(2 * np.pi * (150 + 40 * np.sin(t)) * t)
    return (tone + 0.05 * rng.standard_normal((len(t), channels))).astype(np.float32)


def libsndfile_bytes(rate: int, kind: str, subtype: str | None = None, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(rate, channels), rate, format=kind, subtype=subtype)
    return file.getvalue()


def ffmpeg_bytes(kind: str, codec: str, rate: int = 44_100) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound(rate).T.copy(), format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    return file.getvalue()


def parts(data: bytes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each stretch as it was read, and as it lies in the whole."""
    whole = load_audio(data)
    found = []
    for offset, duration in STRETCHES:
        start, count = round(offset * 16_000), round(duration * 16_000)
        got = load_audio(data, offset=offset, duration=duration)
        assert got.dtype == np.float32
        found.append((got, whole[start : start + count]))
    return found


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
@pytest.mark.parametrize("channels", [1, 2])
def test_at_16_khz_a_stretch_is_the_same_bits(kind, channels):
    for got, wanted in parts(libsndfile_bytes(16_000, kind, channels=channels)):
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_at_other_rates_it_is_the_same_to_the_sample(kind, rate):
    for got, wanted in parts(libsndfile_bytes(rate, kind)):
        assert np.abs(got - wanted).max() < 2e-6  # a sample off would be 0.05


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg(subtype):
    for got, wanted in parts(libsndfile_bytes(16_000, "OGG", subtype)):
        assert np.abs(got - wanted).max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp3", "libmp3lame"), ("ipod", "aac"), ("adts", "aac"), ("matroska", "aac")],
)
def test_what_ffmpeg_decodes(kind, codec):
    for got, wanted in parts(ffmpeg_bytes(kind, codec)):
        assert np.abs(got - wanted).max() < 1e-4


def test_past_the_end_there_is_what_is_left():
    data = libsndfile_bytes(16_000, "WAV")
    whole = load_audio(data)
    assert np.array_equal(load_audio(data, offset=39.5, duration=2.0), whole[-8_000:])
    assert np.array_equal(load_audio(data, offset=39.5), whole[-8_000:])
    assert load_audio(data, offset=50.0, duration=2.0).size == 0
    assert np.array_equal(load_audio(whole, offset=3.0, duration=0.5), whole[48_000:56_000])


def test_damage_elsewhere_does_no_harm_but_damage_here_does(tmp_path: Path):
    data = libsndfile_bytes(16_000, "WAV")
    path = tmp_path / "cut.wav"
    path.write_bytes(data[: len(data) // 2])
    assert np.array_equal(
        load_audio(path, offset=2.0, duration=1.0), load_audio(data)[32_000:48_000]
    )
    with pytest.raises(AudioError, match="breaks off"):
        load_audio(path, offset=30.0, duration=1.0)
    (tmp_path / "text.wav").write_text("no audio at all")
    with pytest.raises(AudioError, match="not in an audio"):
        load_audio(tmp_path / "text.wav", offset=1.0, duration=1.0)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "mp3"])
def test_the_end_of_a_long_file_costs_no_more_than_its_beginning(kind):
    made = ffmpeg_bytes("mp3", "libmp3lame") if kind == "mp3" else libsndfile_bytes(44_100, kind)

    def seconds(read) -> float:
        began = time.perf_counter()
        read()
        return time.perf_counter() - began

    whole = min(seconds(lambda: load_audio(made)) for _ in range(3))
    late = min(seconds(lambda: load_audio(made, offset=35.0, duration=1.0)) for _ in range(3))
    assert late < whole / 3
    assert read_stretch(io.BytesIO(made), 35 * 16_000, 36 * 16_000) is not None
