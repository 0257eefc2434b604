"""Text as it is written: it comes while a recording is being read, and is the same text."""

import io
import os
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.infer.helpers import tones
from tiny_audio.errors import AudioError
from tiny_audio.infer.recognise import join_texts
from tiny_audio.infer.transcribe import Recogniser, join_streams

PIECES = st.lists(st.lists(st.text(alphabet="ab \n", max_size=4), max_size=5), max_size=5)


def encoded(seconds: float, container: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tones([seconds])[0], 16_000, format=container, subtype="PCM_16")
    return file.getvalue()


@given(PIECES)
def test_joined_pieces_are_the_joined_texts(spans: list[list[str]]) -> None:
    whole = join_texts("".join(pieces) for pieces in spans)
    assert "".join(join_streams(spans)) == whole


def test_stream_writes_what_transcribe_writes(recogniser: Recogniser) -> None:
    for clip in [*tones([0.3, 2.0, 10.0]), np.zeros(1, dtype=np.float32)]:
        pieces = list(recogniser.stream(clip))
        assert "".join(pieces) == recogniser.transcribe(clip).text
        assert all(pieces)
    assert len(list(recogniser.stream(tones([2.0])[0]))) > 3


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_words_come_while_the_pipe_is_still_open(recogniser: Recogniser, container: str) -> None:
    data = encoded(40.0, container)
    reading, writing = os.pipe()
    half = len(data) * 6 // 10  # more than a window
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb") as writer:
        pieces = recogniser.stream(pipe)
        fed = threading.Thread(target=lambda: (writer.write(data[:half]), writer.flush()))
        fed.start()
        first = next(pieces)  # would wait for ever for the end of the pipe
        assert first
        fed.join()
        rest = threading.Thread(target=lambda: (writer.write(data[half:]), writer.close()))
        rest.start()
        text = first + "".join(pieces)
        rest.join()
    assert text == recogniser.transcribe(data).text


def test_a_long_file_is_read_as_words_are_written(recogniser: Recogniser) -> None:
    data = encoded(600.0)
    file = io.BytesIO(data)
    next(recogniser.stream(file))
    assert file.tell() < 0.6 * len(data)


def test_what_was_heard_of_a_recording_that_breaks_off_comes_before_the_error(
    recogniser: Recogniser,
) -> None:
    data = encoded(20.0)
    heard: list[str] = []
    with pytest.raises(AudioError, match="breaks off"):
        heard.extend(recogniser.stream(data[: 15 * 32_000]))
    assert heard
    assert recogniser.transcribe(data).text.startswith("".join(heard)[:20])
