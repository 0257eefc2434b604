"""Reading a recording span by span gives the spans of the whole, whatever blocks it comes in."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.infer.helpers import tones, write_wav
from tiny_audio.audio.segment import split_long
from tiny_audio.infer.recognise import MIN_SPAN_SECONDS, read_pieces, split_stream
from tiny_audio.infer.transcribe import Recogniser

LONGEST, SHORTEST = 2.0, 0.5


@settings(max_examples=40)
@given(
    seconds=st.floats(0.0, 70.0),
    block=st.integers(1_000, 400_000),
    seed=st.integers(0, 99),
    silent=st.booleans(),
)
def test_spans_are_those_of_the_whole(seconds: float, block: int, seed: int, silent: bool) -> None:
    (clip,) = [np.zeros(int(seconds * 16_000), np.float32)] if silent else tones([seconds], seed)
    blocks = [clip[i : i + block] for i in range(0, len(clip), block)]
    found = list(split_stream(blocks, LONGEST, SHORTEST))
    spans = split_long(clip, LONGEST, SHORTEST)
    assert [len(span) for span in found] == [end - start for start, end in spans]
    assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *found]), clip)


def test_a_long_stream_is_not_held() -> None:
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal most
        for _ in range(600):
            block = np.zeros(16_000, np.float32)
            made.append(weakref.ref(block))
            most = max(most, sum(ref() is not None for ref in made))
            yield block
            del block

    assert sum(len(span) for span in split_stream(blocks(), LONGEST, SHORTEST)) == 600 * 16_000
    assert most < 40


def test_a_long_file_is_the_same_as_the_array(recogniser: Recogniser, tmp_path: Path) -> None:
    (clip,) = tones([120.0])
    window = recogniser.model.window_seconds
    pieces = [p for p, _ in read_pieces(write_wav(tmp_path / "long.wav", clip), None, window)]
    starts = [start for start, _ in split_long(clip, window, MIN_SPAN_SECONDS)]
    assert [p.start for p in pieces] == starts
    assert [p.last for p in pieces] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_recording_that_breaks_off_late_is_an_error_without_text(
    recogniser: Recogniser, tmp_path: Path, kept: float
) -> None:
    path, (clip, good) = tmp_path / "cut.flac", tones([120.0, 1.0])
    soundfile.write(path, clip, 16_000)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    broken, beside = recogniser.transcribe([path, good])
    assert "breaks off" in (broken.error or "")
    assert (broken.text, broken.seconds, broken.segments) == ("", 0.0, [])
    assert beside.text == recogniser.transcribe(good).text
