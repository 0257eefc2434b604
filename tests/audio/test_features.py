"""The log-mel spectrogram against transformers' own, and its independence of padding."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from tiny_audio.audio.features import LogMel

WINDOW = 480_000  # 30 s
SHAPES = [(128, 400, 160), (80, 512, 320)]

Clip = np.ndarray
Stock = Callable[[Clip], torch.Tensor]


def stock_of(n_mels: int, n_fft: int, hop: int) -> Stock:
    extractor = WhisperFeatureExtractor(feature_size=n_mels, n_fft=n_fft, hop_length=hop)
    return lambda clip: extractor(clip, sampling_rate=16_000, return_tensors="pt").input_features[0]


def ragged(
    clips: list[Clip], pad: float = 0.0, extra: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack clips of different lengths; `pad` fills what no one may look at."""
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = torch.full((len(clips), int(lengths.max()) + extra), pad)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return batch, lengths


def noise(samples: int, level: float = 0.1, seed: int = 0) -> Clip:
    generator = np.random.default_rng(seed)
    return (level * generator.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Synthetic signals: lengths around the hop and window edges, silence, very quiet and loud."""
    lengths = [1, 159, 160, 161, 199, 200, 201, 479, 16_000, 33_333]
    sweep = np.sin(np.cumsum(np.linspace(0.01, 3.0, 40_000))).astype(np.float32)
    quiet_end = np.concatenate([noise(8_000, 0.5), np.zeros(8_000, np.float32)])
    spike = noise(1_759, 1e-6)
    spike[-1] = 1.0  # heard only by the frames past the last valid one
    return [
        *(noise(n, level, seed=n) for n in lengths for level in (1e-6, 0.1)),
        *(np.zeros(3_200, np.float32), sweep, quiet_end, spike, noise(5_000, 30.0)),
    ]


def assert_equals_stock(features: LogMel, stock: Stock, clips: list[Clip]) -> None:
    mel, frames = features(*ragged(clips, pad=7.0, extra=333))
    assert mel.dtype == torch.float32
    for row, n, clip in zip(mel, frames.tolist(), clips, strict=True):
        assert n == len(clip) // features.hop == features.out_len(len(clip))
        torch.testing.assert_close(row[:, :n], stock(clip)[:, :n], atol=1e-4, rtol=0)
        assert not row[:, n:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_valid_frames_equal_whisper_padded_to_30_s(shape, clips):
    assert_equals_stock(LogMel(*shape), stock_of(*shape), clips)


def test_real_clips_equal_whisper(shared_data: Path) -> None:
    paths = sorted((shared_data / "speech_test").glob("*.flac"))[::4]
    speech = [soundfile.read(path, dtype="float32", frames=WINDOW - 1)[0] for path in paths]
    assert len(speech) > 4
    assert_equals_stock(LogMel(128, 400, 160), stock_of(128, 400, 160), speech)


@pytest.mark.parametrize("shape", SHAPES)
def test_native_equals_whisper_on_every_frame(shape, clips):
    some = [*clips[::6], noise(WINDOW), noise(WINDOW + 5_000)]
    mel = LogMel(*shape).native(*ragged(some, pad=7.0), WINDOW)
    expected = torch.stack([stock_of(*shape)(clip) for clip in some])
    torch.testing.assert_close(mel, expected, atol=1e-4, rtol=0)


def test_a_long_clip_is_followed_by_zeros_not_cut() -> None:
    clip = noise(WINDOW + 16_000)
    features = LogMel(80, 400, 160)
    mel, frames = features(*ragged([clip]))
    padded = features.native(*ragged([clip]), WINDOW * 2)
    assert frames.tolist() == [3_100]
    torch.testing.assert_close(mel, padded[:, :, :3_100], atol=1e-5, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9_000), min_size=1, max_size=5),
    extra=st.integers(0, 2_000),
    pad=st.sampled_from([0.0, 1.0, float("nan"), float("inf")]),
)
def test_alone_or_in_any_batch_is_the_same(lengths: list[int], extra: int, pad: float) -> None:
    features = LogMel(80, 400, 160)
    clips = [noise(n, seed=n) for n in lengths]
    mel, frames = features(*ragged(clips, pad=pad, extra=extra))
    assert torch.isfinite(mel).all()
    for row, n, clip in zip(mel, frames.tolist(), clips, strict=True):
        alone, _ = features(*ragged([clip]))
        assert alone.shape[2] == n
        torch.testing.assert_close(row[:, :n], alone[0], atol=1e-5, rtol=0)


def test_float32_under_autocast_and_after_a_cast_of_the_model(clips: list[Clip]) -> None:
    features = LogMel(128, 400, 160)
    batch = ragged(clips)
    expected, _ = features(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(*batch)[0], expected)
    model = torch.nn.ModuleDict({"features": features}).to(torch.bfloat16)
    assert torch.equal(model["features"](*batch)[0], expected)
    assert not model.state_dict()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_equals_whisper_when_matmul_precision_is_lowered(device: str, clips: list[Clip]) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    clips = clips[::3]
    features = LogMel(128, 400, 160).to(device)
    batch, lengths = ragged(clips)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, torch.bfloat16):
            mel, frames = features(batch.to(device), lengths.to(device))
    finally:
        torch.set_float32_matmul_precision(before)
    stock = stock_of(128, 400, 160)
    for row, n, clip in zip(mel.cpu(), frames.tolist(), clips, strict=True):
        torch.testing.assert_close(row[:, :n], stock(clip)[:, :n], atol=1e-4, rtol=0)
