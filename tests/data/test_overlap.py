"""Fingerprints of audio and text."""

from pathlib import Path

import numpy as np
import soundfile

from tests.data.helpers import noise
from tiny_audio.audio.io import load_audio
from tiny_audio.data.check import Fingerprints, audio_print
from tiny_audio.data.records import Utterance


def stored(path: Path, samples: np.ndarray, **how: str) -> int:
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


def test_repeats_are_those_that_a_search_through_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    drawn = [(int(a), f"w{t}") for a, t in rng.integers(0, 12, (60, 2))]
    clips = [noise(0.01, seed) for seed in range(11)] + [np.zeros(100, np.float32)]
    prints = Fingerprints(utterance(str(n), clips[a], t) for n, (a, t) in enumerate(drawn))
    expected: dict[str, list[str]] = {"same audio and text": [], "same audio with another text": []}
    for n, (audio, text) in enumerate(drawn):
        earlier = [m for m in range(n) if drawn[m][0] == audio]
        if earlier and audio != 11:  # silence is no repeat of silence
            same = drawn[earlier[0]][1] == text
            kind = "same audio and text" if same else "same audio with another text"
            expected[kind].append(f"{n} = {earlier[0]}")
    assert prints.repeats == expected


def test_an_evaluation_set_is_found_by_audio_and_by_long_text() -> None:
    audio = [noise(0.5, seed) for seed in range(4)]
    texts = ["one two three four five", "yes", "six seven eight nine ten", "no"]
    test = Fingerprints(utterance(*one) for one in zip("wxyz", audio, texts, strict=True))
    training = [
        ("a", audio[0], "one two three four five"),  # both
        ("b", audio[0], "again"),  # a second time: the set's share does not grow
        ("c", noise(0.5, 9), "Six, seven, eight, nine, ten"),  # only the text
        ("d", noise(0.5, 10), "yes"),  # too short to say anything
        ("e", np.zeros(100, np.float32), ""),
    ]
    found = Fingerprints(utterance(*one) for one in training).overlap(test)
    assert found == {"recordings": ["a = w"], "long texts": ["a = w", "c = y"]}
