"""Every way in: formats, rates, channels, arrays, places."""

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audio.encoding import encoded, sine
from tests.data.faulty import Fault, Server, serving

from tiny_audio.audio.decode import read_stretch
from tiny_audio.audio.io import SAMPLE_RATE, audio_blocks, load_audio
from tiny_audio.errors import AudioError

LOSSLESS = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *(("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("CAF", "ALAC_16")),
    *(("AU", "PCM_16"), ("NIST", "PCM_16"), ("RF64", "PCM_16"), ("WAV", "ULAW")),
    *(("wav", "pcm_s24le"), ("ipod", "alac"), ("mov", "pcm_s16be")),
]
LOSSY = [
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "IMA_ADPCM")),
    *(("mp3", "libmp3lame"), ("ipod", "aac"), ("mp4", "aac"), ("adts", "aac"), ("ac3", "ac3")),
    *(("webm", "libopus"), ("matroska", "libmp3lame"), ("matroska", "aac"), ("mpegts", "aac")),
]
SEEKING = ("CAF", "ipod", "mov", "mp4")  # may keep at the end what is needed first


def assert_tone(waveform: np.ndarray, hertz: float, level: float, tolerance: float) -> None:
    """The middle of it is a tone of this frequency and level."""
    assert waveform.dtype == np.float32
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 18))
    assert np.argmax(spectrum) * SAMPLE_RATE / (1 << 18) == pytest.approx(hertz, abs=1.0)
    found = np.sqrt(2 * np.mean(middle.astype(np.float64) ** 2))
    assert found == pytest.approx(level, rel=tolerance)


@pytest.mark.parametrize(("container", "codec"), LOSSLESS)
def test_lossless_formats(container: str, codec: str) -> None:
    samples = sine(440, 0.5, SAMPLE_RATE, channels=2)
    waveform = load_audio(encoded(samples, SAMPLE_RATE, container, codec))
    assert waveform.shape == (8_000,)
    tolerance = 0.02 if codec in ("PCM_U8", "ULAW") else 1e-4
    np.testing.assert_allclose(waveform, samples[:, 0], atol=tolerance)


@pytest.mark.parametrize(("container", "codec"), LOSSY)
def test_lossy_formats(container: str, codec: str) -> None:
    waveform = load_audio(encoded(sine(440, 1.0, 48_000, channels=2), 48_000, container, codec))
    assert SAMPLE_RATE <= len(waveform) <= SAMPLE_RATE * 1.06  # codecs pad their last frame
    assert_tone(waveform, 440, 0.5, 0.05)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 192_000])
@pytest.mark.parametrize(("container", "codec"), [("WAV", "PCM_16"), ("FLAC", "PCM_24")])
def test_resampling_keeps_frequency_level_and_length(rate: int, container: str, codec: str) -> None:
    waveform = load_audio(encoded(sine(1_234, 0.7, rate), rate, container, codec))
    assert abs(len(waveform) - 0.7 * SAMPLE_RATE) <= 1
    assert_tone(waveform, 1_234, 0.5, 1e-3)


def test_resampling_removes_what_16_khz_cannot_hold() -> None:
    waveform = load_audio(encoded(sine(11_000, 0.5, 48_000), 48_000, "WAV", "FLOAT"))
    assert np.abs(waveform).max() < 1e-3  # folded back it would be a tone at 5 kHz


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100])
@pytest.mark.parametrize(
    ("container", "codec"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("mp4", "aac")]
)
def test_a_whole_lossy_file_is_never_called_truncated(rate, container, codec):
    for seconds in (0.3, 1.1):
        waveform = load_audio(encoded(sine(300, seconds, rate), rate, container, codec))
        assert len(waveform) / SAMPLE_RATE == pytest.approx(seconds, abs=0.01 + 4_096 / rate)


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_channels_are_averaged(channels: int) -> None:
    samples = 0.2 * np.random.default_rng(0).standard_normal((4_000, channels))
    waveform = load_audio(encoded(samples.astype(np.float32), SAMPLE_RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(waveform, samples.mean(axis=1), atol=1e-6)


def test_surround_sound_is_averaged_by_ffmpeg_too() -> None:
    samples = sine(440, 1.0, 48_000, channels=6)
    samples[:, 1:] = 0.0
    assert_tone(load_audio(encoded(samples, 48_000, "mp4", "aac")), 440, 0.5 / 6, 0.1)


def test_long_files_come_in_blocks_that_join() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((1_200_000, 2)).astype(np.float32)
    waveform = load_audio(encoded(noise, 44_100, "WAV", "FLOAT"))
    expected = soxr.resample(noise.mean(axis=1), 44_100, SAMPLE_RATE, quality="HQ")
    np.testing.assert_allclose(waveform, expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    samples=st.integers(9, 300),
    channels=st.integers(1, 8),
    transposed=st.booleans(),
    tensor=st.booleans(),
    dtype=st.sampled_from(["uint8", "int8", "int16", "int32", "float16", "float32", "float64"]),
)
def test_arrays_of_any_layout_and_type(samples, channels, transposed, tensor, dtype):
    exact = np.random.default_rng(samples).uniform(-0.9, 0.9, (channels, samples))
    if dtype.startswith("float"):
        values = exact.astype(dtype)
    else:
        half = 2.0 ** (np.iinfo(dtype).bits - 1)
        values = np.round(exact * half + (half if dtype == "uint8" else 0)).astype(dtype)
    before = values.copy()
    given_array = values.T if transposed else values
    waveform = load_audio(torch.from_numpy(given_array) if tensor else given_array)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, exact.mean(axis=0), atol=0.01 if "8" in dtype else 1e-3)
    waveform += 1.0  # the result is the caller's own
    assert np.array_equal(values, before)


def test_arrays_of_another_rate_and_tensors_of_training() -> None:
    waveform = load_audio(sine(440, 1.0, 44_100)[:, 0], sample_rate=44_100)
    assert len(waveform) == SAMPLE_RATE
    assert_tone(waveform, 440, 0.5, 1e-3)
    tensor = torch.linspace(-1, 1, 100).requires_grad_()
    np.testing.assert_array_equal(load_audio(tensor), tensor.detach().numpy())
    np.testing.assert_allclose(load_audio(tensor.bfloat16()), tensor.detach().numpy(), atol=0.01)


class OneWay(io.RawIOBase):
    """A stream that cannot go back, such as a pipe or a socket, and may break."""

    def __init__(self, data: bytes, breaks_at: float = float("inf")) -> None:
        self.inner, self.breaks_at = io.BytesIO(data), breaks_at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # a few bytes at a time
        if self.inner.tell() > self.breaks_at:
            raise OSError("the cable is out")
        return self.inner.readinto(memoryview(buffer)[:1_000])


def noise(seconds: float) -> np.ndarray:
    """Samples [S, 1] at 48 kHz that no codec makes small."""
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * 48_000), 1))
    return samples.astype(np.float32)


@pytest.mark.parametrize(
    ("container", "codec"), [("WAV", "PCM_16"), *LOSSLESS[6:11], *LOSSLESS[15:], *LOSSY]
)
def test_a_pipe_is_decoded_while_it_is_written(container: str, codec: str) -> None:
    data = encoded(noise(6.0), 48_000, container, codec)
    pipe = OneWay(data)
    blocks = audio_blocks(pipe, live=True)
    first = next(blocks)
    if container not in SEEKING:
        assert pipe.inner.tell() < 0.8 * len(data)
    waveform = np.concatenate([first, *blocks])
    expected = load_audio(data)
    assert len(waveform) == pytest.approx(len(expected), abs=1_200)  # of MP3: the padding
    if len(waveform) == len(expected):
        np.testing.assert_allclose(waveform, expected, atol=1e-3 if codec != "OPUS" else 0.05)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF", "OGG"])
def test_a_pipe_that_breaks_off_is_told_after_what_it_held(container: str) -> None:
    data = encoded(noise(4.0), 48_000, container, "VORBIS" if container == "OGG" else "PCM_16")
    found: list[int] = []
    blocks = audio_blocks(OneWay(data[: len(data) * 3 // 4]), live=True)
    with pytest.raises(AudioError, match="breaks off") as caught:
        found.extend(map(len, blocks))
    assert caught.value.reason == "truncated"
    assert sum(found) > 2 * SAMPLE_RATE


@pytest.mark.parametrize("live", [False, True])
def test_a_pipe_that_cannot_be_read_on_is_one_line(live: bool) -> None:
    data = encoded(sine(440, 5.0, SAMPLE_RATE), SAMPLE_RATE, "WAV", "PCM_16")
    with pytest.raises(AudioError, match="the cable is out"):
        list(audio_blocks(OneWay(data, breaks_at=100_000), live=live))


@pytest.mark.parametrize(("container", "codec"), [("FLAC", "PCM_16"), ("ipod", "aac")])
def test_places_agree(container: str, codec: str, tmp_path: Path) -> None:
    data = encoded(sine(440, 0.5, SAMPLE_RATE), SAMPLE_RATE, container, codec)
    expected = load_audio(data)
    path = tmp_path / "märz 1%d.raw"  # a name that says nothing, and looks like a pattern
    path.write_bytes(data)
    halfway = io.BytesIO(data)
    halfway.seek(len(data) // 2)
    sources = [path, str(path), bytearray(data), halfway, OneWay(data)]
    sources.append(io.BufferedReader(OneWay(data)))
    for source in sources:
        np.testing.assert_array_equal(load_audio(source), expected)
    for opener in (lambda: path.open("rb"), lambda: path.open("rb", buffering=0)):
        with opener() as file:
            np.testing.assert_array_equal(load_audio(file), expected)
            assert not file.closed
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe := tmp_path / "pipe")
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        np.testing.assert_array_equal(load_audio(pipe), expected)
        writer.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    data = encoded(sine(440, 0.5, SAMPLE_RATE), SAMPLE_RATE, "FLAC", "PCM_16")
    for name in ("tone.flac", "short.flac", "huge.flac", "endless.flac"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "page").write_text("<html>hello</html>")
    with serving(tmp_path) as server:
        server.faults["short.flac"] = Fault("cut", at=3_000)
        server.faults |= {f"{kind}.flac": Fault(kind) for kind in ("huge", "endless")}
        yield server


def test_addresses(server: Server) -> None:
    assert len(load_audio(f"{server.url}/tone.flac?signature=secret")) == 8_000
    reasons = {"page": "not_audio", "short.flac": "truncated", "x": "unreadable"}
    for path, reason in reasons.items():
        with pytest.raises(AudioError) as caught:
            load_audio(f"{server.url}/{path}?signature=secret", max_bytes=1 << 20)
        assert caught.value.reason == reason
        assert path in str(caught.value)
        assert "secret" not in str(caught.value)
    with pytest.raises(AudioError, match="cannot be downloaded") as caught:
        load_audio("http://user:secret@127.0.0.1:9/x.wav")
    assert "secret" not in str(caught.value)


def test_what_is_too_large_is_not_read(server: Server) -> None:
    for path, limit in (("huge.flac", None), ("endless.flac", 3 << 20), ("tone.flac", 1_000)):
        start = time.perf_counter()
        with pytest.raises(AudioError, match="--max-download") as caught:
            load_audio(f"{server.url}/{path}", max_bytes=limit)
        assert caught.value.reason == "too_long"
        assert time.perf_counter() - start < 10.0  # huge.flac would be waited for 15 s
    assert server.sent < 32  # what the sockets hold beyond the limit


def test_real_recordings_against_libsndfile_and_soxr(shared_data: Path) -> None:
    paths = sorted((shared_data / "speech_test").glob("*.flac"))[::3]
    paths += sorted((shared_data / "speech_train").glob("*/*.opus"))[:5]
    assert len(paths) > 10
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        expected = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE, quality="HQ")
        np.testing.assert_allclose(load_audio(path), expected, atol=1e-5)


def speech(rate: int, kind: str, codec: str = "PCM_16", channels: int = 1) -> bytes:
    """A tone of changing height in noise, for 12 s."""
    t = np.arange(12 * rate)[:, None] / rate
    tone = 0.3 * np.sin(2 * np.pi * (150 + 40 * np.sin(t)) * t)
    samples = tone + 0.05 * np.random.default_rng(rate).standard_normal((len(t), channels))
    return encoded(samples.astype(np.float32), rate, kind, codec)


@pytest.mark.parametrize(
    ("kind", "codec", "rate", "channels", "tolerance"),
    [
        *((kind, "PCM_16", 16_000, 1, 0.0) for kind in ("WAV", "FLAC", "AIFF")),
        *((kind, "PCM_16", 16_000, 2, 0.0) for kind in ("WAV", "FLAC")),
        *(("WAV", "PCM_16", rate, 1, 2e-6) for rate in (8_000, 11_025, 44_100)),
        *(("FLAC", "PCM_16", rate, 1, 2e-6) for rate in (22_050, 48_000)),
        *(("OGG", codec, 16_000, 1, 1e-3) for codec in ("VORBIS", "OPUS")),
        *(("ipod", "aac", 44_100, 1, 0.0), ("mp3", "libmp3lame", 44_100, 1, 0.0)),
    ],
)
def test_a_stretch_is_the_same_to_the_sample(kind, codec, rate, channels, tolerance) -> None:
    data = speech(rate, kind, codec, channels)
    whole = load_audio(data)
    for offset, duration in [(0.0, 1.0), (0.3, 0.7), (7.123, 2.0), (8.00001, 0.5), (10.9, 1.1)]:
        start, count = round(offset * 16_000), round(duration * 16_000)
        got = load_audio(data, offset=offset, duration=duration)
        assert got.dtype == np.float32
        wanted = whole[start : start + count]
        assert np.abs(got - wanted).max() <= tolerance  # a sample off would be 0.05
        sought = read_stretch(
            io.BytesIO(data), start, start + count
        )  # what comes before is skipped
        assert (sought is not None) == kind.isupper()


def test_past_the_end_there_is_what_is_left_and_damage_elsewhere_does_no_harm() -> None:
    data = speech(16_000, "WAV")
    whole = load_audio(data)
    assert np.array_equal(load_audio(data, offset=11.5, duration=2.0), whole[-8_000:])
    assert np.array_equal(load_audio(data, offset=11.5), whole[-8_000:])
    assert load_audio(data, offset=50.0, duration=2.0).size == 0
    assert np.array_equal(load_audio(whole, offset=3.0, duration=0.5), whole[48_000:56_000])
    cut = data[: len(data) // 2]
    assert np.array_equal(load_audio(cut, offset=2.0, duration=1.0), whole[32_000:48_000])
    with pytest.raises(AudioError, match="breaks off"):
        load_audio(cut, offset=9.0, duration=1.0)
    with pytest.raises(AudioError, match="not in an audio"):
        load_audio(b"no audio at all", offset=1.0, duration=1.0)
