"""Fingerprints of audio and text."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.helpers import noise
from tiny_audio.audio.io import load_audio
from tiny_audio.data.overlap import (
    SILENCE,
    EvaluationSet,
    FirstSeen,
    Repeats,
    audio_print,
    text_print,
)
from tiny_audio.data.records import Utterance


def stored(path: Path, samples: np.ndarray, **how: str) -> int:
    """The print of samples that went through a file."""
    soundfile.write(path, samples, 16_000, **how)
    return audio_print(load_audio(path))


def utterance(name: str, waveform: np.ndarray, text: str) -> Utterance:
    return Utterance(name, waveform, text, "s", extra={"transcript": text})


def test_another_lossless_container_is_the_same_audio(tmp_path: Path) -> None:
    samples = (noise(1.3, seed=1) * 2**15).astype(np.int16)
    wav = stored(tmp_path / "a.wav", samples, subtype="PCM_16")
    assert wav == stored(tmp_path / "a.flac", samples)
    assert wav == stored(tmp_path / "a.aiff", samples)
    assert wav == stored(tmp_path / "deep.wav", samples / 2.0**15, subtype="FLOAT")
    assert wav == stored(tmp_path / "stereo.flac", np.stack([samples, samples], axis=1))
    assert wav == stored(tmp_path / "padded.wav", np.pad(samples, (160, 3200)), subtype="PCM_16")


def test_both_decoders_give_the_same_print(tmp_path: Path) -> None:
    """ALAC in MP4 is read by FFmpeg, WAV by libsndfile."""
    import av

    samples = (noise(0.7, seed=2) * 2**15).astype(np.int16)
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("alac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16p", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert audio_print(load_audio(path)) == stored(tmp_path / "a.wav", samples, subtype="PCM_16")


def test_what_is_heard_differently_is_other_audio(tmp_path: Path) -> None:
    samples = noise(1.0, seed=3)
    prints = {
        audio_print(samples),
        audio_print(samples * 0.9),
        audio_print(samples[1:]),
        audio_print(noise(1.0, seed=4)),
        stored(tmp_path / "a.ogg", samples, subtype="VORBIS"),
    }
    assert len(prints) == 5


def test_silence_has_no_print() -> None:
    assert audio_print(np.zeros(1600, np.float32)) == SILENCE
    assert audio_print(np.full(1600, 1e-6, np.float32)) == SILENCE


def test_text_counts_without_case_and_punctuation() -> None:
    assert text_print("Well, HELLO there!") == text_print("well hello there")
    assert text_print("hello there")[0] != text_print("there hello")[0]
    assert text_print("one two three")[1] == 3
    assert text_print("...") == (SILENCE, 0)


@pytest.mark.parametrize("recent", [1, 7, 1000])
def test_first_seen_is_what_a_dict_would_say(recent: int) -> None:
    rng = random.Random(0)
    keys = [rng.getrandbits(64) for _ in range(150)]
    seen, plain = FirstSeen(recent), dict[int, int]()
    for number in range(600):
        key = rng.choice(keys)
        assert seen.add(key, number) == plain.get(key)
        plain.setdefault(key, number)


def test_repeats_by_kind() -> None:
    one, two, three = noise(0.5, 1), noise(0.5, 2), noise(0.5, 3)
    repeats = Repeats()
    for number, (audio, text) in enumerate([
        (one, "some words"),
        (two, "other words"),
        (one, "Some words."),
        (one, "quite different"),
        (three, "other words"),
        (np.zeros(100, np.float32), "nothing"),
        (np.zeros(100, np.float32), "something"),
    ]):  # fmt: skip
        if number != 1:  # that number was a rejected record; its audio never came
            kept = utterance(str(number), audio, text)
            repeats.add(kept, number, audio_print(audio), text_print(text)[0])
    assert [(i, n) for i, n, _ in repeats.same.examples] == [("2", 0)]
    assert [(i, n) for i, n, _ in repeats.conflicting.examples] == [("3", 0)]
    assert repeats.text_only.count == 0
    assert repeats.same.count == repeats.conflicting.count == 1  # silence is no repeat of silence


def test_an_evaluation_set_is_found_by_audio_and_by_long_text() -> None:
    audio = [noise(0.5, seed) for seed in range(4)]
    texts = ["one two three four five", "yes", "six seven eight nine ten", "no"]
    members = zip("wxyz", audio, texts, strict=True)
    test = EvaluationSet("t", (utterance(*member) for member in members))
    for name, heard, text in [
        ("a", audio[0], "one two three four five"),  # both
        ("b", audio[0], "again"),  # a second time: the set's share does not grow
        ("c", noise(0.5, 9), "Six, seven, eight, nine, ten"),  # only the text
        ("d", noise(0.5, 10), "yes"),  # too short to say anything
    ]:
        one = utterance(name, heard, text)
        test.look_for(one, audio_print(heard), text_print(text)[0])
    found = test.summary()
    assert (found["recordings_in_training"], found["recordings"]) == (1, 4)
    assert (found["long_texts_in_training"], found["long_texts"]) == (2, 2)
    assert found["short_texts_not_compared"] == 2
    assert found["examples"]["audio"][0]["test"] == "w"
