"""Fingerprints of audio and text: repeated utterances, and test sets that leak into training.

The fingerprint of audio is the same for another container or lossless codec, channels that hold
the same, digital silence at either end, and differences below 16 bits. It is another one after a
lossy codec (MP3, Opus, AAC), at another volume or rate, cut elsewhere or with other noise; then
only text that agrees is left as a hint.

S samples, N utterances.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tiny_audio.data.records import Utterance, bytes_hash
from tiny_audio.text.scoring import basic

NONE = 0  # the fingerprint of silence, and of text without a word
LONG_TEXT = 5  # words; shorter sentences are said independently of each other


def audio_print(waveform: npt.NDArray[np.float32]) -> int:
    """A number in [0, 2**64) for a waveform [S]."""
    samples = np.clip(np.rint(waveform * 2.0**15), -(2**15), 2**15 - 1).astype("<i2")
    audible = np.flatnonzero(samples)
    if not len(audible):
        return NONE
    return bytes_hash(samples[audible[0] : audible[-1] + 1].tobytes())


def text_print(text: str) -> tuple[int, int]:
    """A number for a text, whatever its case and punctuation, and how many words it has."""
    words = basic(text).split()
    return (bytes_hash(" ".join(words).encode()) if words else NONE), len(words)


class Fingerprints:
    """Ids and fingerprints of the utterances of a set, in their order."""

    def __init__(self, utterances: Iterable[Utterance] = ()) -> None:
        self.ids: list[str] = []
        self._audio, self._text, self._words = array("Q"), array("Q"), array("L")
        for utterance in utterances:
            self.add(utterance)

    def add(self, utterance: Utterance) -> None:
        """Add one utterance."""
        text, words = text_print(utterance.text)
        self.ids.append(utterance.id)
        self._audio.append(audio_print(utterance.waveform))
        self._text.append(text)
        self._words.append(words)

    def repeats(self) -> dict[str, list[str]]:
        """Audio that came before, as "id = id of the first", by kind. Silence is no repeat."""
        found: dict[str, list[str]] = {
            "same audio and text": [],
            "same audio with another text": [],
        }
        _, first, inverse = np.unique(self._audio, return_index=True, return_inverse=True)
        for here, there in enumerate(first[inverse]):
            if there < here and self._audio[here] != NONE:
                alike = self._text[here] == self._text[there]
                kind = "same audio and text" if alike else "same audio with another text"
                found[kind].append(f"{self.ids[here]} = {self.ids[there]}")
        return found

    def overlap(self, test: Fingerprints) -> dict[str, list[str]]:
        """Recordings and long texts of a test set that are in this set, as "id = id there"."""
        long_texts = np.where(np.asarray(test._words) >= LONG_TEXT, test._text, NONE)
        found = {}
        for kind, ours, theirs in (
            ("recordings", self._audio, test._audio),
            ("long texts", self._text, long_texts),
        ):
            shared, here, there = np.intersect1d(ours, theirs, return_indices=True)
            pairs = sorted(zip(here[shared != NONE], there[shared != NONE], strict=True))
            found[kind] = [f"{self.ids[n]} = {test.ids[m]}" for n, m in pairs]
        return found
