"""Fingerprints of audio and text: repeated utterances, and test sets that leak into training.

What the audio's fingerprint survives: another container or lossless codec, channels that hold the
same, digital silence at either end, differences below 16 bits. What it cannot see: the same speech
after a lossy codec (MP3, Opus, AAC), at another volume or rate, cut elsewhere or with other noise.
Text that agrees is then the only hint.

S samples.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_audio.data.records import Utterance, bytes_hash
from tiny_audio.data.rejects import EXAMPLES
from tiny_audio.text.scoring import basic

SILENCE = 0  # the print of audio without a sample that sounds, and of text without a word
LONG_TEXT = 5  # words; shorter sentences are said independently of each other


def audio_print(waveform: npt.NDArray[np.float32]) -> int:
    """A number in [0, 2**64) for a waveform [S]: see the module's text for what it survives."""
    samples = np.clip(np.rint(waveform * 2.0**15), -(2**15), 2**15 - 1).astype("<i2")
    sounds = samples != 0
    if not sounds.any():
        return SILENCE
    first, last = int(sounds.argmax()), len(samples) - int(sounds[::-1].argmax())
    return bytes_hash(samples[first:last].tobytes())


def text_print(text: str) -> tuple[int, int]:
    """A number for a text, whatever its case and punctuation, and how many words it has."""
    words = basic(text).split()
    return (bytes_hash(" ".join(words).encode()) if words else SILENCE), len(words)


class FirstSeen:
    """Which number a fingerprint came with first; 12 bytes for each fingerprint.

    Args:
        recent: so many are held in a plain dict before they join the sorted ones.
    """

    def __init__(self, recent: int = 1 << 16) -> None:
        self._most_recent = recent
        self._keys: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)  # sorted
        self._numbers: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._recent: dict[int, int] = {}

    def add(self, key: int, number: int) -> int | None:
        """The number that `key` first came with; None where it is new, and is kept."""
        if key in self._recent:
            return self._recent[key]
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        if place < len(self._keys) and int(self._keys[place]) == key:
            return int(self._numbers[place])
        self._recent[key] = number
        if len(self._recent) >= self._most_recent:
            self._merge()
        return None

    def _merge(self) -> None:
        keys = np.fromiter(self._recent.keys(), np.uint64, len(self._recent))
        numbers = np.fromiter(self._recent.values(), np.uint32, len(self._recent))
        keys, numbers = np.append(self._keys, keys), np.append(self._numbers, numbers)
        order = np.argsort(keys, kind="stable")
        self._keys, self._numbers = keys[order], numbers[order]
        self._recent = {}


@dataclass
class Pairs:
    """A kind of agreement between utterances: how many there are, and a few of them."""

    count: int = 0
    examples: list[tuple[str, int, str]] = field(default_factory=list)  # id, the other's number

    def add(self, utterance: Utterance, other: int) -> None:
        """Count an utterance that agrees with an earlier one."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((utterance.id, other, utterance.text))


class Repeats:
    """Utterances that came before; 32 bytes of memory for each."""

    def __init__(self) -> None:
        self.same = Pairs()  # audio and text
        self.conflicting = Pairs()  # the same audio, another text
        self.text_only = Pairs()
        self._audio, self._text = FirstSeen(), FirstSeen()
        self._texts = array("Q")  # by number

    def add(self, utterance: Utterance, number: int, audio: int, text: int) -> None:
        """Compare an utterance with all before it; numbers grow."""
        self._texts.extend([SILENCE] * (number - len(self._texts)))  # rejected ones between
        self._texts.append(text)
        if audio == SILENCE:
            return
        same_audio = self._audio.add(audio, number)
        same_text = None if text == SILENCE else self._text.add(text, number)
        if same_audio is None:
            if same_text is not None:
                self.text_only.add(utterance, same_text)
        elif self._texts[same_audio] == text:
            self.same.add(utterance, same_audio)
        else:
            self.conflicting.add(utterance, same_audio)


class EvaluationSet:
    """An evaluation set's fingerprints, and what of it turns up in the training data."""

    def __init__(self, name: str, utterances: Iterable[Utterance]) -> None:
        self.name = name
        self.size = self.short = 0
        self._ids: dict[str, dict[int, str]] = {"audio": {}, "text": {}}  # fingerprint -> id
        self._found: dict[str, set[int]] = {"audio": set(), "text": set()}
        self._examples: dict[str, list[dict[str, str]]] = {"audio": [], "text": []}
        for utterance in utterances:
            self.size += 1
            self._ids["audio"].setdefault(audio_print(utterance.waveform), utterance.id)
            text, words = text_print(utterance.text)
            if words >= LONG_TEXT:
                self._ids["text"].setdefault(text, utterance.id)
            else:
                self.short += 1
        self._ids["audio"].pop(SILENCE, None)

    def look_for(self, utterance: Utterance, audio: int, text: int) -> None:
        """Note whether a training utterance, given with its fingerprints, is in this set."""
        for kind, key in (("audio", audio), ("text", text)):
            known, found, examples = self._ids[kind], self._found[kind], self._examples[kind]
            if key in known and key not in found:
                found.add(key)
                if len(examples) < EXAMPLES:
                    example = {"training": utterance.id, "test": known[key]}
                    examples.append(example | {"text": utterance.text})

    def summary(self) -> dict[str, Any]:
        """Plain values: how many distinct recordings and long texts of the set were found."""
        return {
            "set": self.name,
            "utterances": self.size,
            "recordings": len(self._ids["audio"]),
            "recordings_in_training": len(self._found["audio"]),
            "long_texts": len(self._ids["text"]),
            "long_texts_in_training": len(self._found["text"]),
            "short_texts_not_compared": self.short,
            "examples": self._examples,
        }
