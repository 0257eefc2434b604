"""One record to an utterance or a reject: every reason by its name; real, fast and quiet speech
passes."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.data.helpers import audio_tokens, noise, open_one
from tiny_audio.compose import compose
from tiny_audio.data.prepare import Preparer, TokenLimits, loudness, quality_limits
from tiny_audio.data.records import Record, Reject, RejectCounts, Utterance
from tiny_audio.errors import ConfigError, SampleRejected
from tiny_audio.text.labels import LabelRules

PREPARE = Preparer(LabelRules("lower", "keep"), min_seconds=0.2, max_seconds=5.0)
LIMITS = quality_limits(compose(["model=tiny", "output_dir=x"]).data)  # the defaults


def record(audio: object, text: str = "Hello.", **values: object) -> Record:
    return Record(**({"id": "r1", "source": "main", "audio": audio, "text": text} | values))


def usable(item: Utterance | Reject) -> Utterance:
    assert isinstance(item, Utterance), item
    return item


def reason(item: Utterance | Reject) -> str:
    assert isinstance(item, Reject), item
    return item.reason


@pytest.mark.parametrize("offset", [7.25, 0.0], ids=["middle", "beginning"])
def test_a_stretch_of_a_long_file(tmp_path, offset):
    whole = noise(20.0, 1)
    soundfile.write(tmp_path / "long.wav", whole, 16_000, subtype="FLOAT")
    row = {"audio_filepath": "long.wav", "text": "a", "offset": offset, "duration": 1.5}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    (item,) = open_one(path=str(tmp_path / "m.jsonl")).records()
    assert isinstance(item, Record)
    assert item.id == f"long.wav@{offset:g}"
    start = int(offset * 16_000)
    assert np.array_equal(usable(PREPARE(item)).waveform, whole[start : start + 24_000])


@pytest.mark.parametrize(("seconds", "expected"), [(99.0, "too_long"), (0.01, "too_short")])
def test_the_declared_duration_rejects_before_anything_is_decoded(seconds, expected):
    def decode() -> bytes:
        raise AssertionError("decoded")

    assert reason(PREPARE(record(decode, seconds=seconds))) == expected
    assert reason(PREPARE(record(decode, text="", seconds=1.0))) == "empty_label"


def test_what_the_model_cannot_take(prompt):
    limits = TokenLimits(prompt, audio_tokens, max_label_tokens=10)
    clip = Utterance("u", noise(1.0, 0), "ten letter", "main")
    assert limits.check(clip) is None
    assert reason(limits.check(replace(clip, text="ten letters"))) == "label_too_long"
    assert reason(limits.check(replace(clip, waveform=noise(0.05, 0)))) == "too_short"


def test_counts_add_up_and_show_examples():
    first, second = RejectCounts(seen=10), RejectCounts(seen=5)
    for n in range(8):
        first.add(Reject(f"u{n}", "main", "truncated", "broken"))
    second.add(Reject("v", "other", "empty_label", "nothing"))
    first.merge(second)
    assert (first.seen, first.total) == (15, 9)
    assert first.summary() == [
        "rejected 9 of 15 samples",
        "  8 truncated, such as main/u0: broken",
        "  1 empty_label, such as other/v: nothing",
    ]
    assert RejectCounts.from_dict(json.loads(json.dumps(first.to_dict()))) == first
    assert RejectCounts(seen=3).summary() == []


def prepared(audio: object, text: str, *, allow_empty: bool = False) -> Utterance | Reject:
    rules = LabelRules(allow_empty=allow_empty)
    preparer = Preparer(rules, min_seconds=0.2, max_seconds=30.0, quality=LIMITS)
    return preparer(Record("r", "main", audio, text))


def clipped(seconds: float, share: float) -> np.ndarray:
    wave = noise(seconds, 0)
    return np.clip(wave / np.quantile(np.abs(wave), 1 - share), -1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("audio", "text", "expected"),
    [
        (np.zeros(16_000, np.float32), "words", "silent"),
        (np.full(16_000, 0.4, np.float32), "words", "silent"),  # an offset is not heard
        (noise(1.0, 0) * 0.001, "words", "silent"),
        (clipped(2.0, 0.05), "some words", "clipped"),
        (noise(2.0, 0) * 32_768, "some words", "clipped"),  # samples of 16 bits called floats
        (noise(2.0, 0), "w" * 81, "many_chars_per_second"),
        (noise(29.0, 0), "no", "few_chars_per_second"),
        (noise(2.0, 0), "[noise]", "empty_label"),
        (noise(2.0, 0), "<MUSIC>", "marker_label"),
        (noise(2.0, 0), "twenty five characters ok", None),
        (clipped(2.0, 0.005), "some words", None),
        (noise(1.0, 0) * 0.03, "quiet words", None),  # -50 dBFS
        (np.concatenate([np.zeros(64_000), noise(0.3, 0)]).astype(np.float32), "late", None),
    ],
)
def test_what_is_no_speech_of_its_text(audio: np.ndarray, text: str, expected: str | None):
    item = prepared(audio, text)
    assert (item.reason if isinstance(item, Reject) else None) == expected


@pytest.mark.parametrize("text", ["", "[noise]"])
def test_clips_without_words_are_welcome_where_they_are_wanted(text: str):
    for audio in (np.zeros(80_000, np.float32), noise(5.0, 0) * 1e-4, noise(5.0, 0)):
        assert reason(prepared(audio, text)) == "empty_label"
        assert usable(prepared(audio, text, allow_empty=True)).text == ""
    assert reason(prepared(clipped(2.0, 0.5), text, allow_empty=True)) == "clipped"


@given(st.floats(0.3, 25.0), st.floats(0.31, 39.0))
def test_any_rate_of_speech_within_the_limits_passes(seconds: float, rate: float):
    waveform, letters = np.full(round(seconds * 16_000), 0.1), max(1, round(rate * seconds))
    waveform[::2] = -0.1
    actual = letters * 16_000 / len(waveform)
    within = LIMITS.chars_per_second[0] <= actual <= LIMITS.chars_per_second[1]
    with nullcontext() if within else pytest.raises(SampleRejected):
        LIMITS.check(waveform, "a" * letters)


def test_real_speech_passes_played_half_as_fast_again(shared_data: Path):
    """Flac and Ogg-Opus: nothing real is rejected, nor when spoken at one and a half its speed."""
    prepare = Preparer(LabelRules(), 0.2, 60.0, LIMITS)
    for folder in ("speech_test", "speech_train"):
        source = open_one(path=str(shared_data / folder / "manifest.jsonl"), max_samples=40)
        for item in source.records():
            found = usable(prepare(item))
            assert found.seconds == pytest.approx(item.seconds, abs=0.02)
            LIMITS.check(found.waveform[: len(found.waveform) * 2 // 3], found.text)


def test_nothing_but_training_data_is_measured():
    record = Record("r", "main", np.zeros(16_000, np.float32), "words")
    assert isinstance(Preparer(LabelRules(), 0.2, 30.0)(record), Utterance)


def test_loudness_is_that_of_a_sine():
    time = np.arange(16_000) / 16_000
    sine = (0.1 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)
    assert loudness(sine) == pytest.approx(-23.01, abs=0.05)
    assert loudness(sine + np.float32(0.5)) == pytest.approx(-23.01, abs=0.05)
    assert loudness(np.zeros(0, np.float32)) == -200
    assert loudness(sine[:100]) == pytest.approx(-23, abs=1.5)


def test_limits_without_sense_are_refused():
    with pytest.raises(ConfigError, match=r"chars_per_second=\[50.0, 40.0\]: write"):
        replace(LIMITS, chars_per_second=(50.0, 40.0))
    with pytest.raises(ConfigError, match=r"max_clipped=2 is a share"):
        replace(LIMITS, max_clipped=2.0)
