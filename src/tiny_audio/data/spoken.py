"""Synthetic speech as a source: endless everyday sentences, spoken by espeak-ng in the workers.

Record n is the same sentence in the same voice, with the same samples, in whatever process and
order it is spoken: the sentences come in stretches of 64, each from its own seed, so that any of
them is found without speaking those before it.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tiny_audio.data.records import IndexedSource, Source
from tiny_audio.data.utterance import Record
from tiny_audio.errors import DataError

if TYPE_CHECKING:
    from tiny_audio.data.synthetic import Synthesiser, Voice

STRETCH = 64  # sentences from one seed


@dataclass(frozen=True)
class Speech:
    """A sentence that is spoken when it is called, in whatever process that happens."""

    text: str
    voice: Voice

    def __call__(self) -> npt.NDArray[np.float32]:
        """Waveform float32 [S] at 16 kHz."""
        return _synthesiser()(self.text, self.voice)


class SpokenSource(IndexedSource):
    """espeak-ng speaks: `split` "train" or "test", which share neither texts nor voices.

    Raises DataError for another split, MissingExtraError without the `synth` extra.
    """

    def __init__(
        self, name: str, *, key: str, weight: float, max_samples: int | None, split: str, seed: int
    ) -> None:
        super().__init__(name, weight, max_samples)
        if split not in ("train", "test"):
            raise DataError(f"Synthetic speech has no split {split!r}: set {key}.split=train|test.")
        from tiny_audio.data.synthetic import voice_names

        voice_names(split)  # says now, not in a worker, that espeak-ng is missing
        self._split, self._seed = split, seed

    def size(self) -> None:
        return None

    def read(self, index: int) -> Record:
        stretch, position = divmod(index, STRETCH)
        text, voice = _sentences(self._split, self._seed, stretch)[position]
        return Record(
            id=f"{self._split}-{self._seed}-{index}",
            source=self.name,
            audio=Speech(text, voice),
            text=text,
            speaker=voice.name,
        )

    def hold_out(self, count: int) -> tuple[Source, Source]:
        """What is made for training is kept whole; the first of the test split are held out."""
        if self._split == "test":
            return super().hold_out(count)
        held = copy.copy(self)
        held._split, held._max_samples = "test", count
        return self, held


@cache
def _synthesiser() -> Synthesiser:
    """The one of this process."""
    from tiny_audio.data.synthetic import Synthesiser

    return Synthesiser()


_stretches: dict[tuple[str, int, int], list[tuple[str, Voice]]] = {}


def _sentences(split: str, seed: int, stretch: int) -> list[tuple[str, Voice]]:
    from tiny_audio.data.everyday import sentences
    from tiny_audio.data.synthetic import draw_voice

    place = (split, seed, stretch)
    if place not in _stretches:
        if len(_stretches) >= STRETCH:  # finite sets come back to all of theirs on each pass
            del _stretches[next(iter(_stretches))]
        texts = islice(sentences(seed * 1_000_003 + stretch, split), STRETCH)
        rng = random.Random(f"voices-{split}-{seed}-{stretch}")
        _stretches[place] = [(text, draw_voice(rng, split)) for text in texts]
    return _stretches[place]
