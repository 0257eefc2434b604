"""Cutting long recordings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.segment import split_long
from tiny_audio.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 12 * SAMPLE_RATE),
    longest=st.floats(0.05, 4.0),
    share=st.floats(0.0, 0.5),
    silent_from=st.floats(0.0, 1.0),
    seed=st.integers(0, 3),
)
def test_spans_cover_everything_within_bounds(samples, longest, share, silent_from, seed):
    waveform = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    waveform[int(silent_from * samples) :] = 0.0
    shortest = int(longest * share * 100) / 100
    spans = split_long(waveform, longest, shortest)

    assert spans == split_long(waveform.copy(), longest, shortest)
    edges = [0, *(stop for _, stop in spans)]
    assert [start for start, _ in spans] == edges[:-1]
    assert edges[-1] == samples
    lengths = np.diff(edges)
    assert (lengths > 0).all()
    assert (lengths <= longest * SAMPLE_RATE).all()
    if len(spans) > 1:
        assert (lengths >= shortest * SAMPLE_RATE).all()


def test_cuts_fall_into_the_pauses() -> None:
    """Words of 2 s with pauses of 0.4 s, and in each word a short dip that must not attract."""
    rng = np.random.default_rng(0)
    word = 0.1 * rng.standard_normal(2 * SAMPLE_RATE)
    word[16_000 : 16_000 + 640] = 0.0  # 40 ms, the closure of a stop
    pause = 1e-4 * rng.standard_normal(int(0.4 * SAMPLE_RATE))
    waveform = np.concatenate([word, pause] * 12).astype(np.float32)
    spans = split_long(waveform, 6.0, 1.0)
    assert len(spans) > 4
    for _, stop in spans[:-1]:
        within = stop % (len(word) + len(pause))
        assert within >= len(word)


def test_a_short_recording_is_one_span_and_silence_is_cut_late() -> None:
    for samples, lengths in ((0, []), (7, [7]), (480_000, [480_000])):
        spans = split_long(np.ones(samples, np.float32), 30.0, 15.0)
        assert [stop - start for start, stop in spans] == lengths
    spans = split_long(np.zeros(100 * SAMPLE_RATE, np.float32), 30.0, 5.0)
    assert [stop - start for start, stop in spans] == [480_000, 480_000, 480_000, 160_000]


@pytest.mark.parametrize("bounds", [(10.0, 6.0), (0.0, 0.0)])
def test_bounds_that_cannot_be_kept_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="half"):
        split_long(np.zeros(10, np.float32), *bounds)
