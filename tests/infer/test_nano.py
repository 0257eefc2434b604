"""What only a working recogniser can show: the bundled one writes words, and none for noise."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import tiny_audio
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.evaluate.wer import score
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.checkpoint import BUNDLED
from tiny_audio.text.scoring import get_rule

SIZE_LIMIT = 40 * 2**20  # bytes, all weights together


@pytest.fixture(scope="module")
def nano() -> Recogniser:
    return tiny_audio.load("nano", device="cpu")


def test_unseen_voices_and_sentences_are_mostly_right(nano: Recogniser) -> None:
    spoken = list(islice(synthetic_utterances("test", seed=11), 40))
    texts = [t.text for t in nano.transcribe([u.waveform for u in spoken])]
    words = score([u.text for u in spoken], texts, get_rule("whisper-en")).words
    assert words.rate is not None
    assert words.rate < 0.12


def test_silence_has_no_words(nano: Recogniser) -> None:
    for seconds in (0.5, 3.0, 12.0):
        assert nano.transcribe(np.zeros(int(seconds * 16_000), np.float32)).text == ""


def test_noise_does_not_become_words(nano: Recogniser, shared_data: Path) -> None:
    """At most a stray word in ten seconds.

    Pieces of these recordings were trained on with an empty transcript: this guards what was
    learned, it does not say how other noises do.
    """
    folder = shared_data / "noise"
    rows = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    files = [folder / row["audio_filepath"] for row in rows if row["kind"] == "noise"][::2]
    transcripts = nano.transcribe(files)
    words = sum(len(transcript.text.split()) for transcript in transcripts)
    assert words / sum(transcript.seconds for transcript in transcripts) < 0.1


def test_real_recordings_are_recognised(nano: Recogniser, shared_data: Path) -> None:
    """Of the few that the pair gets right, and a long one: guards against breakage only."""
    folder = shared_data / "speech_test"
    assert nano.transcribe(folder / "cards_001.flac").text == "ten of clubs"
    long = nano.transcribe(folder / "libri_1088-134315-0000.flac")
    assert long.error is None
    assert len(long.text.split()) > 10


def test_the_weights_stay_small() -> None:
    files = list(BUNDLED["nano"].parent.rglob("*.safetensors"))
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) < SIZE_LIMIT
