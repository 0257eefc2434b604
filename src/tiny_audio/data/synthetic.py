"""Synthetic speech: sentences of the grammar, spoken by espeak-ng.

espeak-ng is a separate GPL-3 library that is loaded at run time through the `espeakng-loader`
wheel (the extra `synth`). S samples.
"""

from __future__ import annotations

import _ctypes
import copy
import ctypes
import os
import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.data.grammar import sentences
from tiny_audio.data.records import IndexedSource, Record, Source, Spec, Utterance
from tiny_audio.errors import DataError, SourceError, missing_extra

Wave = npt.NDArray[np.float32]

CHUNK = 64  # sentences from one seed
ACCENTS = (
    "gmw/en-US", "gmw/en-US", "gmw/en", "gmw/en-GB-x-rp", "gmw/en-GB-scotland",
    "gmw/en-US-nyc", "gmw/en-029", "gmw/en-GB-x-gbclan", "gmw/en-GB-x-gbcwmd",
)  # fmt: skip
TEST_VARIANTS = ("belinda", "david", "f5", "m8", "pablo", "steph3")
# Effects rather than people: whispers, robots, croaks and the like teach nothing.
_NO_PERSON = (
    "whisper", "robot", "demonic", "croak", "fast", "klatt", "tweaky", "storm", "anxious", "robo",
    "echo", "boris", "hugo",
)  # fmt: skip
_VARIANTS = "voices/!v"  # in the data of espeak-ng
_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_LOCK = threading.Lock()  # two threads would load one and the same copy
_END_OF_LIST, _WORD = 0, 1  # kinds of event


class _Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("type", "identifier", "text_position", "length")),
        ("audio_position", ctypes.c_int),  # milliseconds
        *(("sample", ctypes.c_int), ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8)),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Voice:
    """How a sentence is spoken: espeak voice name, words a minute, pitch and pitch range (0-99)."""

    name: str
    rate: int
    pitch: int
    range: int


def resample(
    waveform: npt.NDArray[np.floating[Any]], source_rate: int, rate: int = SAMPLE_RATE
) -> Wave:
    """Band-limited resampling [S] -> [S * rate // source_rate] through one FFT, with silence on
    each side, so that the ends do not meet."""
    common = int(np.gcd(source_rate, rate))
    up, down = rate // common, source_rate // common
    blocks = -(-len(waveform) // down) + 2
    padded = np.zeros(blocks * down)
    padded[down : down + len(waveform)] = waveform
    spectrum = np.fft.rfft(padded)[: blocks * min(up, down) // 2 + 1]
    resampled = np.fft.irfft(spectrum, blocks * up) * (up / down)
    length = len(waveform) * up // down
    return resampled[up : up + length].astype(np.float32)


class Synthesiser:
    """espeak-ng in this process: the same text and voice always give the same samples.

    The library carries phases and random numbers over from one sentence to the next, so each
    sentence is spoken by a library that was just loaded; on Linux from a private copy in memory,
    so that nobody else in the process keeps it loaded. MissingExtraError without `synth`.
    """

    def __init__(self) -> None:
        library, self._data = _espeak_paths()
        self._library = str(library)
        if sys.platform == "linux":
            self._copy = os.fdopen(os.memfd_create(library.name), "wb", buffering=0)
            self._copy.write(library.read_bytes())
            self._library = f"/proc/self/fd/{self._copy.fileno()}"
        self._c = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)

    def __call__(self, text: str, voice: Voice) -> Wave:
        """Speak `text`: float32 [S] at 16 kHz; raises DataError for an unknown voice."""
        return self.timed(text, voice)[0]

    def timed(self, text: str, voice: Voice) -> tuple[Wave, list[float]]:
        """The same, and the second at which each word begins."""
        pieces: list[npt.NDArray[np.int16]] = []
        begins: list[float] = []

        def receive(
            samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]
        ) -> int:
            for i in count_from(0):
                if not events or events[i].type == _END_OF_LIST:
                    break
                if events[i].type == _WORD:
                    begins.append(events[i].audio_position / 1000)
            if samples and count > 0:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        callback = _CALLBACK(receive)  # kept alive: C holds only the pointer
        with _LOCK:
            library = ctypes.CDLL(self._library)
            try:
                rate = self._begin(library, callback, voice)
                encoded = text.encode()
                library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
                library.espeak_Synchronize()
                library.espeak_Terminate()
            finally:  # out of memory, with all that it remembers; ctypes has no public way to
                if sys.platform == "win32":
                    _ctypes.FreeLibrary(library._handle)
                else:
                    _ctypes.dlclose(library._handle)
        if not pieces:
            return np.zeros(0, dtype=np.float32), []
        native = np.concatenate(pieces).astype(np.float32) / np.float32(32768.0)
        waveform = resample(native, rate)
        peak = float(np.abs(waveform).max())  # between two samples it may be louder than at them
        return waveform / np.float32(max(1.0, peak)), begins

    def _begin(self, library: ctypes.CDLL, callback: object, voice: Voice) -> int:
        """Start the library with a voice and its first random numbers; the samples a second."""
        rate = int(library.espeak_Initialize(_SYNCHRONOUS, 0, str(self._data).encode(), 0))
        if rate <= 0:
            what = f"espeak-ng did not start with its data in {self._data}"
            raise DataError(f"{what}: pip install --force-reinstall espeakng-loader")
        library.espeak_SetSynthCallback(callback)
        library.espeak_ng_SetRandSeed(1)
        self._c.srand(1)
        _, plus, variant = voice.name.partition("+")  # one that is unknown would be passed over
        known = not plus or (self._data / _VARIANTS / variant).is_file()
        if not known or library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {voice.name!r}: see voice_names()")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            library.espeak_SetParameter(parameter, value, 0)
        return rate


def _espeak_paths() -> tuple[Path, Path]:
    """The library and the folder of its data."""
    try:
        import espeakng_loader
    except ImportError:
        raise missing_extra("synthetic speech needs espeak-ng", "synth") from None
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


@cache
def voice_names(split: str) -> tuple[str, ...]:
    """Accent+variant names of one split; no variant is in both "train" and "test"."""
    if split not in ("train", "test"):
        message = f"Synthetic speech has the splits train and test, no split {split!r}"
        raise SourceError(message, setting="split")
    variants = sorted(
        path.name
        for path in (_espeak_paths()[1] / _VARIANTS).iterdir()
        if not any(word in path.name.lower() for word in _NO_PERSON)
        and (path.name in TEST_VARIANTS) == (split == "test")
    )
    return tuple(f"{accent}+{variant}" for variant in variants for accent in ACCENTS)


def draw_voice(rng: random.Random, split: str) -> Voice:
    """A voice of the split with a random speaking rate, pitch and liveliness."""
    name = rng.choice(voice_names(split))
    return Voice(name, rng.randint(125, 215), rng.randint(20, 80), rng.randint(30, 80))


def synthetic_utterances(
    split: str, seed: int, *, count: int | None = None, max_seconds: float = 12.0
) -> Iterator[Utterance]:
    """Spoken sentences of one split, endless or `count` of them; deterministic in `seed`.

    Texts and voices of "train" and "test" are disjoint; clips over `max_seconds` are left out.
    """
    voice_names(split)  # says at once that a split is unknown or espeak-ng missing
    speak = Synthesiser()
    rng = random.Random(f"voices-{split}-{seed}")
    made = 0
    for text in sentences(seed, split):
        if made == count:
            return
        voice = draw_voice(rng, split)
        waveform = speak(text, voice)
        if 0.3 <= len(waveform) / SAMPLE_RATE <= max_seconds:
            yield Utterance(f"{split}-{seed}-{made}", waveform, text, "synthetic", voice.name)
            made += 1


class SyntheticSource(IndexedSource):
    """Endless speech: `split` "train" or "test", which share neither texts nor voices.

    Record n is the same in whatever process and order it is spoken: each chunk of sentences has its
    own seed. Raises SourceError for another split, MissingExtraError without the `synth` extra.
    """

    def __init__(self, name: str, spec: Spec, key: str) -> None:
        super().__init__(name, spec["weight"], spec["max_samples"])
        self._split, self._seed = spec["split"] or "train", spec["options"].get("seed", 0)
        voice_names(self._split)  # says now, not in a worker, what is missing

    def read(self, index: int) -> Record:
        chunk, position = divmod(index, CHUNK)
        text, voice = _sentences(self._split, self._seed, chunk)[position]
        speech = partial(_speak, text, voice)
        name = f"{self._split}-{self._seed}-{index}"
        return Record(name, self.name, speech, text, voice.name)

    def hold_out(self, count: int) -> tuple[Source, Source]:
        """What is made for training is kept whole; the first of the test split are held out."""
        if self._split == "test":
            return super().hold_out(count)
        held = copy.copy(self)
        held._split, held._max_samples = "test", count
        return self, held


_synthesiser = cache(Synthesiser)  # the one of this process


def _speak(text: str, voice: Voice) -> Wave:
    return _synthesiser()(text, voice)


@lru_cache(maxsize=64)
def _sentences(split: str, seed: int, chunk: int) -> list[tuple[str, Voice]]:
    texts = islice(sentences(seed * 1_000_003 + chunk, split), CHUNK)
    rng = random.Random(f"voices-{split}-{seed}-{chunk}")
    return [(text, draw_voice(rng, split)) for text in texts]
