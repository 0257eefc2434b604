"""Training samples changed at random by audiomentations. S samples.

Each kind of change is a transform of the library, which draws from Python's and NumPy's global
generators. They are seeded before it with the run's seed, the kind, the pass and the sample, and
put back after it: neither the worker, nor the order, nor a resume, nor what else is on matters.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.data.records import stable_hash
from tiny_audio.errors import ConfigError, DataError, missing_extra

logger = logging.getLogger(__name__)

Wave = npt.NDArray[np.float32]
# (waveform, sample_rate=...) -> waveform, the same one if unchanged
Transform = Callable[..., Wave]

_KEY = "data.augment"
_RANGES: dict[str, tuple[float, float] | None] = {  # in the order in which changes are made
    "speed": (0.5, 2.0), "room": None, "noise": (-60, 120), "band": (200, 8_000),
    "telephone": None, "gain": (-60, 60),
}  # fmt: skip
_RECORDED = ("noise_only", "room", "noise")
_ROLLOFF = 120  # of the band limits, dB an octave


def open_augmenter(settings: dict[str, Any], **of_run: Any) -> Augmenter | None:
    """The augmenter of the section ``data.augment`` as plain values; None where all is off.

    `of_run`: the other fields of `Augmenter`. Raises ConfigError for a value without sense,
    DataError for noises or rooms that cannot be read, MissingExtraError without the extra.
    """
    _check(settings)
    changes = any(settings[kind]["p"] for kind in _RANGES)
    if changes or settings["noise_only"] or settings["transforms"]:
        return Augmenter(settings, **of_run)
    return None


@dataclass(eq=False)
class Augmenter:
    """Changes waveforms as configured; picklable, and the same in every process."""

    settings: dict[str, Any]  # of the section ``data.augment``, see ``AugmentConfig``
    seed: int
    min_seconds: float  # a change that would leave these durations is not made
    max_seconds: float
    repeats: int = 0  # passes after which the same changes come again; 0: never

    def __post_init__(self) -> None:
        self.settings = json.loads(json.dumps(self.settings))  # as in a checkpoint
        self._unusable: set[str] = set()  # recordings that were warned of
        try:
            library = importlib.import_module("audiomentations")
        except ImportError:
            raise missing_extra(f"{_KEY} needs audiomentations", "augment") from None
        warnings.filterwarnings("ignore", message=".* had to be resampled")
        self._load = lru_cache(library.core.audio_loading_utils.load_sound_file)
        with _seeded("opening"):
            self._transforms = dict(_transforms(library, self.settings))

    def __reduce__(self) -> tuple[Any, ...]:
        """Built anew in each process: the library's objects stay behind."""
        return Augmenter, tuple(getattr(self, field.name) for field in fields(self))

    def __call__(self, waveform: Wave, *, source: str, id: str, epoch: int) -> tuple[Wave, bool]:
        """Change the waveform [S] of sample `id` of `source` on pass `epoch` over the source.

        Returns a waveform, perhaps of another length, and whether only noise is left of it.
        """
        epoch = epoch % self.repeats if self.repeats else epoch
        changed, only_noise = waveform, False
        for kind, transform in self._transforms.items():
            if only_noise and kind in ("speed", *_RECORDED):
                continue
            before = changed
            with _seeded(self.seed, kind, epoch, source, id):
                changed = self._apply(kind, transform, before)
            if kind == "noise_only" and changed is not before:
                changed, only_noise = changed - before, True
        if changed is not waveform:
            peak = np.abs(changed).max(initial=1.0)  # never beyond full scale
            changed = np.ascontiguousarray(changed / peak, dtype=np.float32)
        return changed, only_noise

    def _apply(self, kind: str, transform: Transform, waveform: Wave) -> Wave:
        drawn: dict[str, Any] = getattr(transform, "parameters", {})
        try:
            changed = transform(waveform, sample_rate=SAMPLE_RATE)
            if kind == "room" and changed is not waveform:
                response, _ = self._load(drawn["ir_file_path"], SAMPLE_RATE)
                changed = _aligned(changed, waveform, response)
        except Exception as error:  # of the library's decoders
            if kind not in _RECORDED:
                raise
            name = str(drawn.get("noise_file_path") or drawn.get("ir_file_path"))
            if name not in self._unusable:
                logger.warning("%s.%s: %s cannot be used (%s)", _KEY, kind, name, error)
                self._unusable.add(name)
            return waveform
        if changed.ndim != 1 or not np.isfinite(changed).all():
            raise ConfigError(f"{_KEY}: {kind} made a waveform of {changed.shape} that is no audio")
        fits = self.min_seconds <= len(changed) / SAMPLE_RATE <= self.max_seconds
        return changed if fits else waveform


@contextmanager
def _seeded(*parts: object) -> Iterator[None]:
    """Python's and NumPy's global generators at a seed, and afterwards where they were."""
    seed = stable_hash("\n".join(map(str, parts)))
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _transforms(library: Any, settings: dict[str, Any]) -> Iterator[tuple[str, Transform]]:
    """The transforms that are on, by kind, in the order in which they are made."""

    @cache
    def files(kind: str) -> list[Path]:
        return _recordings(library, settings[kind]["path"], f"{_KEY}.{kind}")

    noise_only = settings["noise"] | {"p": settings["noise_only"]}
    for kind in ("noise_only", *_RANGES):
        change = noise_only if kind == "noise_only" else settings[kind]
        p = change["p"]
        if not p:
            continue
        low, high = change["range"] or (0.0, 0.0)
        if kind == "speed":  # tempo and pitch together, Ko et al. 2015
            rates = round(SAMPLE_RATE / high), round(SAMPLE_RATE / low)
            yield kind, library.Resample(*rates, p=p)
        elif kind == "room":
            whole = {"leave_length_unchanged": False}
            yield kind, library.ApplyImpulseResponse(files("room"), p=p, **whole)
        elif kind == "band":
            yield kind, library.LowPassFilter(low, high, _ROLLOFF, _ROLLOFF, zero_phase=True, p=p)
        elif kind == "telephone":
            yield kind, _telephone(library, p)
        elif kind == "gain":
            yield kind, library.Gain(low, high, p=p)
        else:
            yield kind, library.AddBackgroundNoise(files("noise"), low, high, p=p)
    for number, spec in enumerate(settings["transforms"]):
        yield f"transforms[{number}]", _named_transform(library, spec)


def _aligned(wet: Wave, dry: Wave, response: Wave) -> Wave:
    """A convolution as loud as what went in, its direct sound not delayed."""
    direct = int(np.argmax(np.abs(response)))
    wet = wet[direct : direct + len(dry)]
    before, now = (float(np.mean(np.square(wave, dtype=np.float64))) for wave in (dry, wet))
    level: float = (before / max(now, 1e-24)) ** 0.5
    return (wet * level).astype(np.float32)


def _telephone(library: Any, p: float) -> Any:
    """300 to 3400 Hz (ITU-T G.712), sampled at 8 kHz, 8 bits of mu-law (G.711)."""
    steep = {"min_rolloff": _ROLLOFF, "max_rolloff": _ROLLOFF, "zero_phase": True, "p": 1.0}
    band = library.BandPassFilter(1_850, 1_850, 3_100 / 1_850, 3_100 / 1_850, **steep)

    def line(waveform: Wave, sample_rate: int) -> Wave:
        narrow = soxr.resample(band(waveform, sample_rate=sample_rate), sample_rate, 8_000)
        peak, mu = np.abs(narrow).max(initial=1e-12), 255
        coded = np.round(127 * np.log1p(mu * np.abs(narrow) / peak) / np.log1p(mu))
        decoded = np.copysign(peak / mu * np.expm1(coded / 127 * np.log1p(mu)), narrow)
        wide = soxr.resample(decoded.astype(np.float32), 8_000, sample_rate)
        padded: Wave = np.pad(wide, (0, max(0, len(waveform) - len(wide))))
        return padded[: len(waveform)]

    return library.Lambda(line, p=p)


def _named_transform(library: Any, spec: Mapping[str, Any]) -> Any:
    """A transform of the library by the name of its class and its arguments, p among them."""
    arguments = dict(spec)
    try:
        transform = getattr(library, arguments.pop("name"))(**arguments)
        if not isinstance(transform, library.core.transforms_interface.BaseWaveformTransform):
            raise TypeError("it changes no waveforms")
        return transform
    except Exception as error:  # each class checks its arguments in its own way
        what = f"{_KEY}.transforms: audiomentations has no {dict(spec)} ({error!r})"
        raise ConfigError(what + "; write [{name: PitchShift, p: 0.1}]") from error


def _recordings(library: Any, path: str | None, key: str) -> list[Path]:
    """The recordings of a folder, at any depth, or those that a manifest names, in its order."""
    if not path:
        raise ConfigError(f"{key} needs recordings: set {key}.path=DIR")
    place, find = Path(path).expanduser(), library.core.utils.find_audio_files_in_paths
    try:
        lines = [] if place.is_dir() else place.read_bytes().splitlines()
        named = [json.loads(line)["audio_filepath"] for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{path} is no folder, and no manifest with audio_filepath ({error!r})"
        raise DataError(f"{what}: set {key}.path.") from error
    files: list[Path] = find([place.parent / name for name in named]) or sorted(find(place))
    if not files:
        raise DataError(f"{path} has no recordings: set {key}.path to another folder.")
    return files


def _check(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a probability, a range or a path without sense."""
    chances = {f"{kind}.p": settings[kind]["p"] for kind in _RANGES}
    for name, p in chances.items() | {("noise_only", settings["noise_only"])}:
        if not 0 <= p <= 1:
            raise ConfigError(f"{_KEY}.{name}={p:g} is a probability: use 0 to 1")
    for kind, limits in _RANGES.items():
        path, values = settings[kind]["path"], settings[kind]["range"]
        if path is not None and kind not in _RECORDED:
            raise ConfigError(f"{_KEY}.{kind}.path has no meaning: remove it")
        if limits is None and values:
            raise ConfigError(f"{_KEY}.{kind}.range has no meaning: remove it")
        if limits and not (len(values) == 2 and limits[0] <= values[0] <= values[1] <= limits[1]):
            wanted = f"write [lowest,highest] within {limits[0]:g} and {limits[1]:g}"
            raise ConfigError(f"{_KEY}.{kind}.range={values}: {wanted}")
