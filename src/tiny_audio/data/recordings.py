"""Background noises and rooms: a folder or manifest of recordings, drawn from at random.

Letters: S samples.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.io import load_audio, probe_duration
from tiny_audio.data.folder import AUDIO_SUFFIXES
from tiny_audio.errors import AudioError, DataError

logger = logging.getLogger(__name__)

Wave = npt.NDArray[np.float32]

_CACHE_BYTES = 64 << 20  # of decoded recordings in each process
_LONG = 600.0  # seconds; of longer recordings only stretches are read
_TRIES = 20  # recordings in a row that cannot be used


class Recordings:
    """Recordings by number, decoded when they are asked for.

    Args:
        path: a folder, whose audio at any depth is taken in the order of the paths, or a manifest
            of JSON lines with ``audio_filepath`` (relative to it).
        key: the setting to change, for messages: ``data.augment.noise``.

    Raises DataError if there is nothing to read, or none of the first recordings can be read.
    """

    def __init__(self, path: str, key: str) -> None:
        self._key, self._place = key, Path(path).expanduser()
        if self._place.is_dir():
            found = [f for f in self._place.rglob("*") if f.suffix.lower() in AUDIO_SUFFIXES]
            self._files = sorted((f for f in found if f.is_file()), key=lambda f: f.as_posix())
        elif self._place.is_file():
            self._files = _listed(self._place, key)
        else:
            raise DataError(f"There is no folder or manifest {path}: set {key}.path.")
        if not self._files:
            raise DataError(f"{path} has no recordings: set {key}.path to another folder.")
        self._start()
        self.at(0)

    def __len__(self) -> int:
        return len(self._files)

    def at(self, number: int) -> Wave:
        """Recording `number` [S]; in place of one that cannot be read or is silent, the next.

        The first time that this happens to a recording, a warning says so.
        """
        for step in range(min(_TRIES, len(self))):
            waveform = self._read(self._files[(number + step) % len(self)])
            if waveform is not None:
                return waveform
        raise DataError(
            f"None of {min(_TRIES, len(self))} recordings of {self._place} can be read or heard: "
            f"set {self._key}.path to another folder."
        )

    def stretch(self, rng: np.random.Generator, length: int) -> Wave:
        """A stretch [length] of a recording, both drawn; a short one is repeated.

        Of a recording of many minutes only the stretch is read.
        """
        number, place = int(rng.integers(len(self))), rng.random()
        part = self._part_of_long(self._files[number], place, length)
        if part is not None:
            return part
        whole = self.at(number)
        if len(whole) <= length:
            return np.resize(np.roll(whole, -int(place * len(whole))), length)
        start = int(place * (len(whole) - length + 1))
        return whole[start : start + length]

    def one(self, rng: np.random.Generator) -> Wave:
        """A whole recording, drawn."""
        return self.at(int(rng.integers(len(self))))

    def _part_of_long(self, file: Path, place: float, length: int) -> Wave | None:
        """A stretch of a recording that is too long to be held; None for any other."""
        wanted = length / SAMPLE_RATE
        try:
            if file not in self._seconds:
                self._seconds[file] = probe_duration(file) or 0.0
            if self._seconds[file] <= max(_LONG, wanted):
                return None
            part = load_audio(file, offset=place * (self._seconds[file] - wanted), duration=wanted)
        except AudioError:
            return None  # as a whole it will be tried again, and named
        return part if len(part) == length and part.any() else None

    def _read(self, file: Path) -> Wave | None:
        if file in self._cache:
            self._cache.move_to_end(file)
            return self._cache[file]
        if file in self._unusable:
            return None
        try:
            waveform = load_audio(file)
            problem = "" if waveform.any() else f"{file} is silent"
        except AudioError as error:
            problem = str(error)
        if problem:
            logger.warning("%s: left out of %s", problem, self._key)
            self._unusable.add(file)
            return None
        self._cache[file] = waveform
        self._held += waveform.nbytes
        while self._held > _CACHE_BYTES and len(self._cache) > 1:
            self._held -= self._cache.popitem(last=False)[1].nbytes
        return waveform

    def _start(self) -> None:
        self._cache: OrderedDict[Path, Wave] = OrderedDict()
        self._unusable: set[Path] = set()
        self._seconds: dict[Path, float] = {}
        self._held = 0

    def __getstate__(self) -> dict[str, object]:
        return {"_key": self._key, "_place": self._place, "_files": self._files}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()


def _listed(manifest: Path, key: str) -> list[Path]:
    """The recordings that a manifest names, in its order."""
    number = 0
    files: list[Path] = []
    try:
        for line in manifest.read_text("utf-8-sig").split("\n"):
            number += 1
            if line.strip():
                files.append(manifest.parent / json.loads(line)["audio_filepath"])
    except OSError as error:
        raise DataError(f"{manifest} cannot be read ({error.strerror}): set {key}.path.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{manifest} is wrong in line {number} ({error}): {key}.path needs JSON lines with "
            "audio_filepath, or a folder."
        ) from error
    return files
