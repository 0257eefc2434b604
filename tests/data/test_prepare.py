"""One record to an utterance or a reject: any format in, every reason by its name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr

from tests.data.helpers import audio_tokens, noise, open_one
from tiny_audio.data.prepare import Preparer, TokenLimits
from tiny_audio.data.records import Record, Utterance
from tiny_audio.data.rejects import Reject, RejectCounts
from tiny_audio.errors import DataError
from tiny_audio.text.labels import LabelRules

PREPARE = Preparer(LabelRules("lower", "keep"), min_seconds=0.2, max_seconds=5.0)


def record(audio: object, text: str = "Hello.", **values: object) -> Record:
    return Record(**({"id": "r1", "source": "main", "audio": audio, "text": text} | values))


def usable(item: Utterance | Reject) -> Utterance:
    assert isinstance(item, Utterance), item
    return item


def reason(item: Utterance | Reject) -> str:
    assert isinstance(item, Reject), item
    return item.reason


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 16_000, 1), ("a.wav", 44_100, 2), ("a.flac", 8_000, 2), ("a.ogg", 48_000, 1)],
)
def test_any_format_becomes_mono_16_khz(tmp_path, name, rate, channels):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    soundfile.write(tmp_path / name, np.stack([tone] * channels, axis=1), rate)
    clip = usable(PREPARE(record(tmp_path / name)))
    assert clip.waveform.dtype == np.float32
    assert clip.seconds == pytest.approx(2.0, abs=1e-3)
    expected = soxr.resample(tone, rate, 16_000)
    inner = slice(1600, 30_000)
    assert np.corrcoef(clip.waveform[inner], expected[inner])[0, 1] > 0.999
    assert (clip.text, clip.extra) == ("hello.", {"transcript": "Hello."})


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


def test_every_reason_by_its_name(tmp_path):
    good = tmp_path / "good.wav"
    soundfile.write(good, noise(1.0, 0), 16_000)
    nan = noise(1.0, 0)
    nan[100] = np.nan
    (tmp_path / "text.wav").write_text("This is no audio at all. " * 50)
    (tmp_path / "cut.wav").write_bytes(good.read_bytes()[:9_000])
    soundfile.write(tmp_path / "short.wav", noise(0.1, 0), 16_000)
    soundfile.write(tmp_path / "long.wav", noise(6.0, 0), 16_000)
    found = {
        "not_audio": PREPARE(record(tmp_path / "text.wav")),
        "truncated": PREPARE(record(tmp_path / "cut.wav")),
        "empty": PREPARE(record(b"")),
        "not_finite": PREPARE(record(nan)),
        "too_short": PREPARE(record(tmp_path / "short.wav")),
        "too_long": PREPARE(record(tmp_path / "long.wav")),
        "unreadable": PREPARE(record(tmp_path / "gone.wav")),
        "empty_label": PREPARE(record(good, " ... ")),
        "marker_label": PREPARE(record(good, "ignore_time_segment_in_scoring")),
    }
    assert {expected: reason(item) for expected, item in found.items()} == {
        expected: expected for expected in found
    }
    assert all(isinstance(item, Reject) and item.id == "r1" for item in found.values())
    assert usable(PREPARE(record(good))).seconds == 1.0


@pytest.mark.parametrize(("seconds", "expected"), [(99.0, "too_long"), (0.01, "too_short")])
def test_the_declared_duration_rejects_before_anything_is_decoded(seconds, expected):
    def decode() -> bytes:
        raise AssertionError("decoded")

    assert reason(PREPARE(record(decode, seconds=seconds))) == expected
    assert reason(PREPARE(record(decode, text="", seconds=1.0))) == "empty_label"


def test_audio_can_be_made_in_the_worker():
    assert usable(PREPARE(record(lambda: noise(1.0, 0)))).seconds == 1.0


def test_other_errors_are_not_swallowed():
    def broken() -> bytes:
        raise ZeroDivisionError("a bug")

    with pytest.raises(RuntimeError, match=r"record 'r1' of source 'main' failed.*ZeroDivision"):
        PREPARE(record(broken))

    def user_error() -> bytes:
        raise DataError("mend this")

    with pytest.raises(DataError, match=r"^mend this$"):
        PREPARE(record(user_error))


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
