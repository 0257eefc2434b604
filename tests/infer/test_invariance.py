"""Neither company nor memory nor the number of bits makes a clip's text depend on the batch."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

import tiny_audio
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.infer.transcribe import Recogniser


@pytest.fixture(scope="module", params=[None, "int8"], ids=str)
def nano(request: pytest.FixtureRequest) -> Recogniser:
    return tiny_audio.load("nano", device="cpu", quantise=request.param)


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    return [u.waveform for u in islice(synthetic_utterances("test", seed=11), 24)]


def test_ragged_clips_are_written_as_each_alone(nano: Recogniser, spoken: list[np.ndarray]) -> None:
    """All of them are batched; every fourth is also decoded by itself."""
    assert len({len(clip) for clip in spoken}) > 12
    together = nano.transcribe(spoken, batch_seconds=1000.0)
    assert len({t.text for t in together}) > 18
    for one, other in zip(nano.transcribe(spoken, max_utterances=7), together, strict=True):
        assert one.text == other.text
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    for clip, other in list(zip(spoken, together, strict=True))[::4]:
        assert nano.transcribe(clip).text == other.text


def test_real_recordings_are_written_as_each_alone(nano: Recogniser, shared_data: Path) -> None:
    """The pair gets most of them wrong, with near ties at every turn: the hardest case."""
    folder = shared_data / "speech_test"
    clips = [soundfile.read(f, dtype="float32")[0] for f in sorted(folder.glob("*.flac"))]
    clips = sorted((clip for clip in clips if len(clip) < 8 * 16_000), key=len)[::2]
    assert len(clips) > 5
    together = nano.transcribe(clips, batch_seconds=1000.0)
    assert [nano.transcribe(clip).text for clip in clips] == [t.text for t in together]
