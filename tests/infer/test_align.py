"""Word times: right on speech whose times are known, and the same alone and in any batch."""

import random
from contextlib import ExitStack
from itertools import islice

import numpy as np
import pytest

import tiny_audio
from tests.infer.helpers import tones
from tiny_audio.data.grammar import sentences
from tiny_audio.data.synthetic import Synthesiser, draw_voice
from tiny_audio.infer.align import Word, path_starts
from tiny_audio.infer.transcribe import Recogniser, Transcript
from tiny_audio.model.attention import observed

pytest.importorskip("espeakng_loader", reason="needs the extra synth")


@pytest.fixture(scope="module")
def nano() -> Recogniser:
    return tiny_audio.load("nano", device="cpu")


def words(transcript: Transcript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words]


def test_words_begin_where_espeak_spoke_them(nano: Recogniser) -> None:
    speak, rng = Synthesiser(), random.Random(0)
    texts = list(islice(sentences(31, "test"), 40))
    spoken = [speak.timed(text, draw_voice(rng, "test")) for text in texts]
    found = nano.transcribe([wave for wave, _ in spoken], word_timestamps=True)
    errors: list[float] = []
    for text, (wave, begins), transcript in zip(texts, spoken, found, strict=True):
        own = words(transcript)
        assert [word.text for word in own] == transcript.text.split()
        times = [t for word in own for t in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= t <= len(wave) / 16_000 for t in times)
        assert all(0 < word.probability <= 1 for word in own)
        if transcript.text == text and len(begins) == len(own):
            errors += [abs(w.start - b) for w, b in zip(own, begins, strict=True)]
    assert len(errors) > 80
    assert np.median(errors) <= 0.06
    assert np.quantile(errors, 0.95) <= 0.2
    alone = nano.transcribe(spoken[3][0], word_timestamps=True)
    assert [(w.text, w.start, w.end) for w in words(alone)] == [
        (w.text, w.start, w.end) for w in words(found[3])
    ]


def test_times_of_later_windows_count_from_the_beginning(nano: Recogniser) -> None:
    wave = Synthesiser()("the cat and the dog", draw_voice(random.Random(1), "test"))
    found = nano.transcribe(np.tile(wave, 40 * 16_000 // len(wave)), word_timestamps=True)
    assert len(found.segments) > 1
    for segment in found.segments:
        assert [word.text for word in segment.words] == segment.text.split()
        times = [t for word in segment.words for t in (word.start, word.end)]
        assert times == sorted(times)
        assert all(segment.start <= t <= segment.end + 1e-6 for t in times)


def test_beams_have_times_and_silence_has_none(nano: Recogniser) -> None:
    wave = Synthesiser()("please open the window", draw_voice(random.Random(2), "test"))
    beams = nano.transcribe(wave, word_timestamps=True, beams=3)
    assert [word.text for word in words(beams)] == beams.text.split() != []
    assert beams.text == nano.transcribe(wave, beams=3).text
    for clip in (np.zeros(16_000, np.float32), np.zeros(10, np.float32), tones([0.5])[0]):
        found = nano.transcribe(clip, word_timestamps=True)
        assert [word.text for word in words(found)] == found.text.split()


def test_others_decode_while_one_looks_at_the_attention(nano):
    wave = Synthesiser()("the cat and the dog", draw_voice(random.Random(1), "test"))
    expected, lm = nano.transcribe(wave, word_timestamps=True), nano.model.causal_lm
    usual = lm.config._attn_implementation
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(observed(lm))
        assert nano.transcribe(wave).text == expected.text
        second.enter_context(observed(lm))
        first.close()
        assert nano.transcribe(wave, word_timestamps=True).segments == expected.segments
    assert lm.config._attn_implementation == usual


def test_the_path_is_that_of_a_plain_dynamic_program() -> None:
    rng = np.random.default_rng(0)
    for n, frames in ((1, 1), (3, 8), (6, 6), (7, 4), (12, 40)):
        attention = rng.random((n, frames)).astype(np.float32)
        share = attention / attention.sum(-1, keepdims=True)
        cost = -((share - share.mean(0)) / (share.std(0) + 1e-9)).round(3).astype(np.float64)
        best = {(-1, -1): 0.0}
        for i in range(n):
            for j in range(frames):
                before = [best.get(p, np.inf) for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1))]
                best[i, j] = cost[i, j] + min(before)
        starts = path_starts(attention)
        assert (np.diff(starts) >= 0).all()
        assert starts[0] == 0
        assert _cost(cost, starts) == pytest.approx(best[n - 1, frames - 1], abs=1e-6)


def _cost(cost: np.ndarray, starts: np.ndarray) -> float:
    """The least cost of a path whose tokens begin at ``starts``."""
    n, frames = cost.shape
    total = 0.0
    for i in range(n):
        after = int(starts[i + 1]) if i + 1 < n else frames
        run = cost[i, int(starts[i]) : max(after, int(starts[i]) + 1)]
        total += float(run.sum())
        if i + 1 < n and after < frames and after > starts[i]:
            total += min(0.0, float(cost[i, after]))  # a path may step straight down
    return total
