"""Transforms of the audiomentations library, made to depend on a seed alone.

The library draws from Python's and NumPy's global generators: they are seeded around each call
and put back.

Letters: S samples.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.errors import ConfigError, MissingExtraError

Wave = npt.NDArray[np.float32]


class Transforms:
    """Some of the library's transforms in a row; the library is loaded where they are used.

    Args:
        specs: each with the ``name`` of a class and the arguments it takes, ``p`` among them.
        key: the setting they come from, for messages.

    Raises:
        MissingExtraError: the library is not installed.
        ConfigError: it has no such transform, or the transform refuses its arguments.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]], key: str) -> None:
        self._specs, self._key = [dict(spec) for spec in specs], key
        self._made: list[Any] | None = None
        if self._specs:
            if importlib.util.find_spec("audiomentations") is None:
                raise MissingExtraError(
                    f"{key} needs audiomentations: pip install 'tiny-audio[augment]'"
                )
            with seeded(0):
                self._make()

    def __call__(self, waveform: Wave, seed: int) -> Wave:
        """The waveform [S], changed; its length may change too. A function of `seed`."""
        if self._made is None:
            self._make()
        assert self._made is not None
        with seeded(seed):
            for transform in self._made:
                waveform = transform(waveform, sample_rate=SAMPLE_RATE)
        if waveform.ndim != 1 or not np.isfinite(waveform).all():
            raise ConfigError(f"{self._key} make a waveform of {waveform.shape} that is no audio")
        return np.ascontiguousarray(waveform, dtype=np.float32)

    def _make(self) -> None:
        library = importlib.import_module("audiomentations")
        self._made = [self._one(library, spec) for spec in self._specs]

    def _one(self, library: Any, spec: dict[str, Any]) -> Any:
        arguments = dict(spec)
        name = arguments.pop("name", None)
        kind = getattr(library, str(name), None)
        base = library.core.transforms_interface.BaseWaveformTransform
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise ConfigError(
                f"{self._key}: audiomentations has no transform {name!r}; write "
                "[{name: PitchShift, p: 0.1}]"
            )
        try:
            return kind(**arguments)
        except Exception as error:  # each class checks its arguments in its own way
            raise ConfigError(f"{self._key}: {name} refuses {arguments} ({error})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # each process makes its own


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators at a seed, and afterwards where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
