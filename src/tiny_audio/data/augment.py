"""Training samples changed at random by audiomentations: what is drawn for one depends on itself
alone.

Each kind of change is a transform of the library, which draws from Python's and NumPy's global
generators. They are seeded before it with the run's seed, the kind, the pass and the sample, and
put back after it: neither the worker, nor the order, nor a resume, nor what else is on matters.

S samples.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.data.folder import AUDIO_SUFFIXES
from tiny_audio.data.records import bytes_hash
from tiny_audio.errors import ConfigError, DataError, MissingExtraError

logger = logging.getLogger(__name__)

Wave = npt.NDArray[np.float32]
# (waveform, sample_rate=...) -> waveform, the same one if unchanged
Transform = Callable[..., Wave]

_KEY = "data.augment"
_CHANGES = ("speed", "room", "noise", "band", "telephone", "gain")  # in the order they are made
_RANGES = {"speed": (0.5, 2.0), "noise": (-60, 120), "band": (200, 8_000), "gain": (-60, 60)}
_RECORDED = ("room", "noise")
_TRIES = 20  # recordings of which one must be good
_TELEPHONE_RATE, _TELEPHONE_BAND = 8_000, (300.0, 3_400.0)  # ITU-T G.712
_MU = 255.0  # ITU-T G.711
_ROLLOFF = 120  # of the band limits, dB an octave


def open_augmenter(
    settings: Mapping[str, Any], *, seed: int, min_seconds: float, max_seconds: float
) -> Augmenter | None:
    """The augmenter of the section ``data.augment`` as plain values; None where all is off.

    Raises:
        ConfigError: a value makes no sense.
        DataError: noises or rooms cannot be read.
        MissingExtraError: a change is on, but the `augment` extra is not installed.
    """
    _check(settings)
    changes = any(settings[kind]["p"] for kind in _CHANGES)
    if not (changes or settings["noise_only"] or settings["transforms"]):
        return None
    return Augmenter(settings, seed=seed, min_seconds=min_seconds, max_seconds=max_seconds)


class Augmenter:
    """Changes waveforms as configured; picklable, and the same in every process.

    Args:
        settings: of the section ``data.augment``, see ``AugmentConfig``.
        seed: of the run.
        min_seconds, max_seconds: a change that would leave these durations is not made.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, seed: int, min_seconds: float, max_seconds: float
    ) -> None:
        self.settings = json.loads(json.dumps(settings))  # what a resumed run is compared by
        self.repeats = 0  # passes after which the same changes come again; 0: never
        self._seed, self._limits = seed, (min_seconds, max_seconds)
        self._unusable: set[str] = set()  # recordings that were warned of
        try:
            library = importlib.import_module("audiomentations")
        except ImportError:
            raise MissingExtraError(
                f"{_KEY} needs audiomentations: pip install 'tiny-audio[augment]'"
            ) from None
        warnings.filterwarnings("ignore", message=".* had to be resampled")
        with _seeded("opening"):
            self._transforms = dict(_transforms(library, self.settings))

    def __call__(self, waveform: Wave, *, source: str, id: str, epoch: int) -> tuple[Wave, bool]:
        """Change the waveform [S] of sample `id` of `source` on pass `epoch` over the source.

        Returns:
            The waveform, of another length where its speed changed, and whether all that is left
            of it is noise, which has no words.
        """
        epoch = epoch % self.repeats if self.repeats else epoch
        changed, only_noise = waveform, False
        for kind, transform in self._transforms.items():
            if only_noise and kind in ("speed", *_RECORDED):
                continue
            before = changed
            with _seeded(self._seed, kind, epoch, source, id):
                changed = self._apply(kind, transform, before)
            if kind == "noise_only" and changed is not before:
                changed, only_noise = changed - before, True
        if changed is not waveform:
            peak = np.abs(changed).max(initial=1.0)  # never beyond full scale
            changed = np.ascontiguousarray(changed / peak, dtype=np.float32)
        return changed, only_noise

    def _apply(self, kind: str, transform: Transform, waveform: Wave) -> Wave:
        try:
            changed = transform(waveform, sample_rate=SAMPLE_RATE)
        except Exception as error:  # of the library's decoders
            if kind not in ("noise_only", *_RECORDED):
                raise
            parameters: dict[str, Any] = getattr(transform, "parameters", {})
            name = parameters.get("noise_file_path") or parameters.get("ir_file_path")
            if name not in self._unusable:
                logger.warning("%s.%s: %s cannot be used (%s)", _KEY, kind, name, error)
                self._unusable.add(str(name))
            return waveform
        if changed.ndim != 1 or not np.isfinite(changed).all():
            raise ConfigError(f"{_KEY}: {kind} made a waveform of {changed.shape} that is no audio")
        low, high = self._limits
        return changed if low <= len(changed) / SAMPLE_RATE <= high else waveform

    def __reduce__(self) -> tuple[Any, ...]:
        low, high = self._limits  # built anew in each process: the library's objects stay behind
        make = partial(Augmenter, seed=self._seed, min_seconds=low, max_seconds=high)
        return make, (self.settings,), {"repeats": self.repeats}


@contextmanager
def _seeded(*parts: object) -> Iterator[None]:
    """Python's and NumPy's global generators at a seed, and afterwards where they were."""
    seed = bytes_hash("\n".join(map(str, parts)).encode())
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
    files = {
        kind: _recordings(library, settings[kind]["path"], f"{_KEY}.{kind}")
        for kind in _RECORDED
        if settings[kind]["p"] or (kind == "noise" and settings["noise_only"])
    }
    if settings["noise_only"]:
        yield "noise_only", _noise(library, files["noise"], settings, settings["noise_only"])
    for kind in _CHANGES:
        p = settings[kind]["p"]
        low, high = settings[kind]["range"] or (0.0, 0.0)
        if not p:
            continue
        if kind == "speed":  # tempo and pitch together, Ko et al. 2015
            rates = round(SAMPLE_RATE / high), round(SAMPLE_RATE / low)
            yield kind, library.Resample(*rates, p=p)
        elif kind == "room":
            yield kind, _Room(library, files[kind], p)
        elif kind == "noise":
            yield kind, _noise(library, files[kind], settings, p)
        elif kind == "band":
            yield kind, library.LowPassFilter(low, high, _ROLLOFF, _ROLLOFF, zero_phase=True, p=p)
        elif kind == "telephone":
            yield kind, _telephone(library, p)
        elif kind == "gain":
            yield kind, library.Gain(low, high, p=p)
    for number, spec in enumerate(settings["transforms"]):
        yield f"transforms[{number}]", _named_transform(library, spec)


def _noise(library: Any, files: list[Path], settings: dict[str, Any], p: float) -> Any:
    def check(samples: Wave, sample_rate: int) -> Wave:
        if not samples.any():
            raise ValueError("it is silent")
        return samples

    low, high = settings["noise"]["range"]
    return library.AddBackgroundNoise(
        files, min_snr_db=low, max_snr_db=high, noise_transform=check, p=p
    )


class _Room:
    """Convolution with an impulse response, as loud as before, its direct sound not delayed."""

    def __init__(self, library: Any, files: list[Path], p: float) -> None:
        self._transform = library.ApplyImpulseResponse(files, p=p, leave_length_unchanged=False)
        self._load = lru_cache(library.core.audio_loading_utils.load_sound_file)

    @property
    def parameters(self) -> dict[str, Any]:
        """What was drawn last."""
        found: dict[str, Any] = self._transform.parameters
        return found

    def __call__(self, waveform: Wave, sample_rate: int) -> Wave:
        wet: Wave = self._transform(waveform, sample_rate=sample_rate)
        if wet is waveform:
            return waveform
        response, _ = self._load(self.parameters["ir_file_path"], sample_rate)
        direct = int(np.argmax(np.abs(response)))
        wet = wet[direct : direct + len(waveform)]
        return (wet * (_rms(waveform) / max(_rms(wet), 1e-12))).astype(np.float32)


def _telephone(library: Any, p: float) -> Any:
    """300 to 3400 Hz, 8 kHz, 8 bits of mu-law."""
    low, high = _TELEPHONE_BAND
    filters = library.Compose(
        [
            library.HighPassFilter(low, low, _ROLLOFF, _ROLLOFF, zero_phase=True, p=1.0),
            library.LowPassFilter(high, high, _ROLLOFF, _ROLLOFF, zero_phase=True, p=1.0),
        ]
    )

    def line(waveform: Wave, sample_rate: int) -> Wave:
        banded = filters(waveform, sample_rate=sample_rate)
        narrow = soxr.resample(banded, sample_rate, _TELEPHONE_RATE, quality="HQ")
        peak = max(float(np.abs(narrow).max(initial=0.0)), 1e-12)
        scaled = narrow / peak
        folded = np.sign(scaled) * np.log1p(_MU * np.abs(scaled)) / np.log1p(_MU)
        coded = np.round(folded * 127) / 127
        decoded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU * peak
        wide = soxr.resample(decoded, _TELEPHONE_RATE, sample_rate, quality="HQ")
        wide = np.pad(wide, (0, max(0, len(waveform) - len(wide))))
        return wide[: len(waveform)].astype(np.float32)

    return library.Lambda(line, p=p)


def _named_transform(library: Any, spec: Mapping[str, Any]) -> Any:
    """A transform of the library by the name of its class and its arguments, p among them."""
    arguments = dict(spec)
    name = arguments.pop("name", None)
    kind = getattr(library, str(name), None)
    base = library.core.transforms_interface.BaseWaveformTransform
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ConfigError(
            f"{_KEY}.transforms: audiomentations has no transform {name!r}; write "
            "[{name: PitchShift, p: 0.1}]"
        )
    try:
        return kind(**arguments)
    except Exception as error:  # each class checks its arguments in its own way
        raise ConfigError(f"{_KEY}.transforms: {name} refuses {arguments} ({error})") from error


def _recordings(library: Any, path: str | None, key: str) -> list[Path]:
    """The recordings of a folder, at any depth, or of a manifest; one of the first must be good."""
    if not path:
        raise ConfigError(f"{key} needs recordings: set {key}.path=DIR")
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"There is no folder or manifest {path}: set {key}.path.")
    known = AUDIO_SUFFIXES.intersection(library.core.utils.SUPPORTED_EXTENSIONS)
    found = sorted(place.rglob("*")) if place.is_dir() else _listed(place, key)
    files = [file for file in found if file.suffix.lower() in known]
    if not files:
        raise DataError(f"{path} has no recordings: set {key}.path to another folder.")
    for file in files[:_TRIES]:
        try:
            if library.core.audio_loading_utils.load_sound_file(file, SAMPLE_RATE)[0].any():
                return files
        except Exception as error:  # libsndfile's, audioread's
            logger.warning("%s: %s cannot be used (%s)", key, file, error or type(error).__name__)
    raise DataError(
        f"None of {len(files[:_TRIES])} recordings of {path} can be read or heard: set {key}.path "
        "to another folder."
    )


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


def _check(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a probability, a range or a path without sense."""
    probabilities = {f"{kind}.p": settings[kind]["p"] for kind in _CHANGES}
    for name, p in (probabilities | {"noise_only": settings["noise_only"]}).items():
        if not 0 <= p <= 1:
            raise ConfigError(f"{_KEY}.{name}={p:g} is a probability: use 0 to 1")
    for kind in _CHANGES:
        values = settings[kind]["range"]
        if settings[kind]["path"] is not None and kind not in _RECORDED:
            raise ConfigError(f"{_KEY}.{kind}.path has no meaning: remove it")
        if kind not in _RANGES:
            if values:
                raise ConfigError(f"{_KEY}.{kind}.range has no meaning: remove it")
            continue
        low, high = _RANGES[kind]
        if len(values) != 2 or not low <= values[0] <= values[1] <= high:
            raise ConfigError(
                f"{_KEY}.{kind}.range={values}: write [lowest,highest] within {low:g} and {high:g}"
            )


def _rms(waveform: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
