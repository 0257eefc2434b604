"""How recordings are grouped, cut and batched never shows in what is recognised."""

import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from tests.infer.helpers import tones
from tiny_audio.audio.segment import split_long
from tiny_audio.config import GenerationConfig
from tiny_audio.infer.recognise import AUTO, MIN_SPAN_SECONDS, Recognition, join_texts, recognise
from tiny_audio.infer.transcribe import Recogniser

SECONDS = [0.4, 3.0, 1.0, 0.02, 2.1, 0.7, 5.0, 1.3]


def run(
    recogniser: Recogniser,
    clips: list[np.ndarray],
    batch_seconds: float = 20.0,
    max_utterances: int = 8,
    **changes: float,
) -> list[Recognition]:
    found = recognise(
        recogniser.model,
        enumerate(clips),
        options=GenerationConfig(
            **{"tokens_per_second": 4.0, "min_tokens": 6, "stop_loops": False, **changes}
        ),
        batch_seconds=batch_seconds,
        max_utterances=max_utterances,
    )
    keys, recognitions = zip(*found, strict=True)
    assert keys == tuple(range(len(clips)))
    return list(recognitions)


@pytest.fixture(scope="module")
def alone(recogniser: Recogniser) -> list[Recognition]:
    return [run(recogniser, [clip])[0] for clip in tones(SECONDS)]


@pytest.mark.parametrize(
    ("batch_seconds", "max_utterances"), [(0.1, 8), (4, 2), (500, 64), (1, AUTO)]
)
def test_batches_change_nothing(
    recogniser: Recogniser, alone: list[Recognition], batch_seconds: float, max_utterances: int
) -> None:
    together = run(recogniser, tones(SECONDS), batch_seconds, max_utterances)
    assert [r.text for r in together] == [r.text for r in alone]
    assert len({r.text for r in alone if r.text}) == len(SECONDS) - 1  # each has its own
    for one, other in zip(alone, together, strict=True):
        assert one.seconds == other.seconds
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_a_long_recording_is_its_spans(recogniser: Recogniser) -> None:
    long, short = tones([20.0, 2.0])
    spans = split_long(long, recogniser.model.window_seconds, MIN_SPAN_SECONDS)
    assert len(spans) >= 3
    apart = run(recogniser, [long[start:end] for start, end in spans])
    whole, beside = run(recogniser, [long, short])
    assert whole.text == join_texts(piece.text for piece in apart)
    times = [(segment.start, segment.end) for segment in whole.segments]
    assert times == [(start / 16_000, end / 16_000) for start, end in spans]
    assert beside.text == run(recogniser, [short])[0].text
    tokens = sum(s.tokens for s in whole.segments)
    mean = sum((s.logprob or 0) * s.tokens for s in whole.segments) / tokens
    assert whole.logprob == pytest.approx(mean)


def test_too_short_and_nothing_have_no_segments(recogniser: Recogniser) -> None:
    for found in run(recogniser, [np.zeros(n, dtype=np.float32) for n in (0, 1, 300)]):
        assert (found.text, found.segments, found.logprob, found.finished) == ("", [], None, True)


def test_beam_search_has_texts_but_no_logprob(recogniser: Recogniser) -> None:
    clips = tones([1.0, 2.0])
    alone = [run(recogniser, [clip], num_beams=2)[0].text for clip in clips]
    together = run(recogniser, clips, num_beams=2)
    assert [(r.text, r.logprob) for r in together] == [(text, None) for text in alone]


def test_shares_of_the_time_add_up_to_it(recogniser: Recogniser) -> None:
    before = time.perf_counter()
    found = run(recogniser, tones(SECONDS), batch_seconds=5.0)
    elapsed = time.perf_counter() - before
    assert 0.8 * elapsed < sum(r.work_seconds for r in found) <= elapsed


def test_only_a_group_of_waveforms_is_alive(recogniser: Recogniser) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def many() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal most
        for i in range(60):
            clip = tones([0.5], seed=i)[0]
            made.append(weakref.ref(clip))
            most = max(most, sum(ref() is not None for ref in made))
            yield i, clip
            del clip

    options = GenerationConfig(min_tokens=1, tokens_per_second=1.0)
    limits = {"batch_seconds": 1.0, "max_utterances": 9}  # two clips
    found = recognise(recogniser.model, many(), options=options, **limits)
    assert sum(1 for _ in found) == 60
    assert most <= 16 + 1  # eight batches of two, and the one in the making
