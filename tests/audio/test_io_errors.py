"""What is wrong with a recording is said in one line, under a reason, at little cost."""

import io
import random
import resource
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tests.audio.encoding import encoded, sine

from tiny_audio.audio.io import SAMPLE_RATE, load_audio
from tiny_audio.errors import AudioError

FORMATS = [
    *(("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
    *(("AIFF", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("ipod", "aac"), ("mp4", "alac")),
    ("webm", "libopus"),
]


def rejection(source: object, **options: object) -> AudioError:
    with pytest.raises(AudioError) as caught:
        load_audio(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def files() -> dict[tuple[str, str], bytes]:
    tone = sine(440, 1.5, 48_000) + 0.01 * np.random.default_rng(0).standard_normal((72_000, 1))
    return {key: encoded(tone.astype(np.float32), 48_000, *key) for key in FORMATS}


def movie(sound: np.ndarray | None) -> bytes:
    """An MP4 with two seconds of picture and, maybe, shorter sound [S] at 16 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        video = output.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        audio = None if sound is None else output.add_stream("aac", rate=16_000, layout="mono")
        for _ in range(20):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            output.mux(video.encode(picture))
        if audio is not None:
            for start in range(0, len(sound), 1_024):
                frame = av.AudioFrame.from_ndarray(
                    sound[None, start : start + 1_024], format="fltp", layout="mono"
                )
                frame.sample_rate, frame.pts = 16_000, start
                frame.time_base = Fraction(1, 16_000)
                output.mux(audio.encode(frame))
            output.mux(audio.encode(None))
        output.mux(video.encode(None))
    return file.getvalue()


def test_things_that_are_no_audio_source(tmp_path: Path) -> None:
    missing = tmp_path / "missing.wav"
    for source, words in (
        (missing, f"{missing}: no such file"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be opened"),
        ("x" * 5_000, "cannot be opened"),
    ):
        error = rejection(source)
        assert error.reason == "unreadable"
        assert words in str(error)
    closed = io.BytesIO(b"x")
    closed.close()
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with text.open() as opened_as_text:
        for source in (None, 3, [0.1, 0.2], closed, opened_as_text, io.StringIO("x")):
            assert rejection(source).reason == "unreadable"
    assert rejection(movie(None)).reason == "not_audio"


def test_a_playlist_opens_no_other_file(files, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(files["WAV", "PCM_16"])
    playlist = tmp_path / "list.txt"
    playlist.write_text(f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n")
    assert rejection(playlist).reason == "not_audio"


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_files_are_told(kind, files, capfd) -> None:
    whole = files[kind]
    load_audio(whole)
    for share in (0.75, 0.5, 0.1, 0.01):
        assert rejection(whole[: int(len(whole) * share)]).reason == "truncated"
    assert capfd.readouterr().err == ""  # the decoders keep their warnings to themselves
    if kind == ("WAV", "PCM_16"):
        assert "0.75 s of 1.50 s" in str(rejection(whole[: len(whole) // 2 + 22]))


@pytest.mark.parametrize("kind", [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("ipod", "aac")])
def test_a_damaged_middle_is_told(kind, files) -> None:
    data = bytearray(files[kind])
    third = len(data) // 3
    data[third : 2 * third] = random.Random(0).randbytes(third)
    assert rejection(bytes(data)).reason == "truncated", kind


def test_what_was_written_to_a_pipe_has_no_length_and_is_whole(files) -> None:
    data = bytearray(files["WAV", "PCM_16"])
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert len(load_audio(bytes(data))) == 24_000
    assert len(load_audio(flac_with_length(files["FLAC", "PCM_16"], 0))) == 24_000
    for codec in ("VORBIS", "OPUS"):  # an Ogg file may end in an empty page
        last = b"OggS\0\4" + bytes(21)  # no segments
        assert len(load_audio(files["OGG", codec] + last)) == 24_000


def test_pauses_left_out_of_a_recording_are_no_damage(files) -> None:
    """Browsers and calls send nothing in silence: the clock runs on, the packets do not come."""
    source, file = av.open(io.BytesIO(files["webm", "libopus"])), io.BytesIO()
    with source, av.open(file, "w", format="webm") as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None and not 0.4 < packet.pts * packet.time_base < 1.0:
                packet.stream = stream
                output.mux(packet)
    assert len(load_audio(file.getvalue())) / SAMPLE_RATE == pytest.approx(0.9, abs=0.1)


def test_a_picture_track_that_outlasts_the_sound_is_no_damage() -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(16_384).astype(np.float32)
    assert len(load_audio(movie(sound))) == pytest.approx(16_384, abs=2_048)


ARRAYS = {
    "empty": (np.zeros(0), np.zeros((2, 0)), torch.zeros(0), np.zeros((0, 0))),
    "not_audio": (
        *(np.zeros((2, 3, 4)), np.array(1.0), np.zeros(9, bool), np.zeros(9, complex)),
        *(np.array(["a"]), np.array([None]), torch.zeros(())),
        np.zeros(9, np.int64),  # of which width were the samples?
    ),
}


@pytest.mark.parametrize("reason", ARRAYS)
def test_arrays_that_are_no_audio(reason: str) -> None:
    for array in ARRAYS[reason]:
        assert rejection(array).reason == reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_are_not_finite(value: float) -> None:
    samples = np.zeros((1_000, 2), np.float32)
    samples[500] = value
    for source in (encoded(samples, 44_100, "WAV", "FLOAT"), samples, torch.from_numpy(samples)):
        assert rejection(source).reason == "not_finite"


@pytest.mark.parametrize("rate", [0, -16_000, 1, 10**9])
def test_absurd_rates(rate: int) -> None:
    assert rejection(np.zeros(100), sample_rate=rate).reason == "unreadable"


def flac_with_length(data: bytes, samples: int) -> bytes:
    """A FLAC file whose header says that it holds so many samples (36 bits)."""
    fields = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    return data[:18] + fields.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("kind", FORMATS)
def test_too_long(kind, files) -> None:
    assert rejection(files[kind], max_seconds=1.0).reason == "too_long"
    assert rejection(files[kind], max_seconds=0.0).reason == "too_long"
    assert len(load_audio(files[kind], max_seconds=1.7)) >= 24_000


def test_too_long_arrays_and_exact_fit() -> None:
    assert len(load_audio(np.zeros(16_000), max_seconds=1.0)) == 16_000
    assert rejection(np.zeros(16_001), max_seconds=1.0).reason == "too_long"
    assert rejection(np.zeros((2, 9_000)), sample_rate=8_000, max_seconds=1.0).reason == "too_long"


def test_long_audio_and_lying_headers_cost_no_memory(files, tmp_path: Path) -> None:
    three_hours = tmp_path / "long.wav"
    header = bytearray(encoded(np.zeros((1, 1), np.float32), SAMPLE_RATE, "WAV", "PCM_16")[:44])
    size = 3 * 3_600 * SAMPLE_RATE * 2
    header[4:8], header[40:44] = struct.pack("<I", size + 36), struct.pack("<I", size)
    with three_hours.open("wb") as file:
        file.write(header)
        file.truncate(44 + size)  # sparse: takes no room on the disk
    silence = encoded(np.zeros((600 * SAMPLE_RATE, 1), np.float32), SAMPLE_RATE, "FLAC", "PCM_16")
    wav = bytearray(files["WAV", "PCM_16"])
    wav[4:8] = wav[40:44] = struct.pack("<I", 0x70000000)
    flac = flac_with_length(files["FLAC", "PCM_16"], 2**36 - 1)

    tracemalloc.start()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    try:
        assert rejection(three_hours, max_seconds=30.0).reason == "too_long"
        assert rejection(flac_with_length(silence, 0), max_seconds=30.0).reason == "too_long"
        for limit, reason in ((30.0, "too_long"), (None, "truncated")):
            assert rejection(bytes(wav), max_seconds=limit).reason == reason
            assert rejection(flac, max_seconds=limit).reason == reason
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 * 1024
