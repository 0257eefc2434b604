"""Training samples changed at random: what is drawn for one depends on itself alone.

Every kind of change draws from a generator of its own, whose seed is the run's seed, the pass and
the sample: neither the worker, nor the order, nor a resume, nor what else is switched on matters.

Letters: S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_audio.audio import SAMPLE_RATE, perturb
from tiny_audio.data.recordings import Recordings
from tiny_audio.data.records import id_hash
from tiny_audio.data.transforms import Transforms
from tiny_audio.errors import ConfigError

Wave = npt.NDArray[np.float32]

_TAG = 79  # keeps these random numbers apart from others with the same seed
_KEY = "data.augment"
_KINDS = ("speed", "room", "noise", "noise_only", "band", "telephone", "gain", "transforms")
_RANGES = {"speed": (0.5, 2.0), "noise": (-60, 120), "band": (200, 8_000), "gain": (-60, 60)}
_CHANGES = ("speed", "room", "noise", "band", "telephone", "gain")
_RECORDED = ("room", "noise")


def open_augmenter(
    settings: Mapping[str, Any], *, seed: int, min_seconds: float, max_seconds: float
) -> Augmenter | None:
    """The augmenter of the section ``data.augment`` as plain values; None where all is off."""
    changes = {kind: value for kind, value in settings.items() if kind in _CHANGES}
    augmenter = Augmenter(
        changes,
        noise_only=settings["noise_only"],
        transforms=settings["transforms"],
        seed=seed,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
    )
    return augmenter if augmenter.active else None


class Augmenter:
    """Changes waveforms as configured; picklable, and the same in every process.

    Args:
        changes: kind -> ``p``, ``range`` and ``path``; see ``AugmentConfig``.
        noise_only: probability that a sample is noise without words.
        transforms: of audiomentations, each a mapping with its ``name`` and arguments.
        seed: of the run.
        min_seconds, max_seconds: a change that would leave these durations is not made.

    Raises:
        ConfigError: a value makes no sense.
        DataError: noises or rooms cannot be read.
        MissingExtraError: ``transforms`` without the `augment` extra.
    """

    def __init__(
        self,
        changes: Mapping[str, Mapping[str, Any]],
        *,
        noise_only: float,
        transforms: Sequence[Mapping[str, Any]],
        seed: int,
        min_seconds: float,
        max_seconds: float,
    ) -> None:
        self.settings = {  # plain values: what a resumed run is compared by
            "changes": {kind: dict(change) for kind, change in changes.items()},
            "noise_only": noise_only,
            "transforms": [dict(spec) for spec in transforms],
        }
        self._p = {kind: float(change["p"]) for kind, change in changes.items()}
        self._p |= {"noise_only": noise_only, "transforms": float(bool(transforms))}
        for kind, p in self._p.items():
            if not 0 <= p <= 1:
                name = kind if kind == "noise_only" else f"{kind}.p"
                raise ConfigError(f"{_KEY}.{name}={p:g} is a probability: use 0 to 1")
        self._ranges = {kind: _range(kind, change) for kind, change in changes.items()}
        self._recordings = {
            kind: Recordings(_path(kind, changes[kind]), f"{_KEY}.{kind}")
            for kind in _RECORDED
            if self._p[kind] > 0 or (kind == "noise" and noise_only > 0)
        }
        self._transforms = Transforms(transforms, f"{_KEY}.transforms")
        self._seed = seed
        self.repeats = 0  # passes after which the same changes come again; 0: never
        self._shortest = min_seconds * SAMPLE_RATE
        self._longest = max_seconds * SAMPLE_RATE

    @property
    def active(self) -> bool:
        """Whether there is any change to be made."""
        return any(self._p.values())

    def __call__(self, waveform: Wave, *, source: str, id: str, epoch: int) -> tuple[Wave, bool]:
        """Change the waveform [S] of sample `id` of `source` on pass `epoch` over the source.

        Returns:
            The waveform, of another length where its speed changed, and whether all that is left
            of it is noise, which has no words.
        """
        sample = id_hash(f"{source}\n{id}")
        epoch = epoch % self.repeats if self.repeats else epoch
        drawn: dict[str, np.random.Generator] = {}
        for number, kind in enumerate(_KINDS):
            if self._p[kind] > 0:
                rng = np.random.default_rng([self._seed, _TAG, number, epoch, sample])
                if rng.random() < self._p[kind]:
                    drawn[kind] = rng
        only_noise = "noise_only" in drawn
        if only_noise:
            for kind in ("speed", "room", "noise"):
                drawn.pop(kind, None)
        for kind, rng in drawn.items():
            waveform = self._change(kind, waveform, rng)
        return perturb.within_full_scale(waveform) if drawn else waveform, only_noise

    def _change(self, kind: str, waveform: Wave, rng: np.random.Generator) -> Wave:
        if kind == "transforms":
            changed = self._transforms(waveform, int(rng.integers(2**32)))
            return changed if self._fits(len(changed)) else waveform
        if kind == "room":
            return perturb.add_room(waveform, self._recordings["room"].one(rng))
        if kind == "telephone":
            return perturb.telephone(waveform)
        value = float(rng.uniform(*self._ranges["noise" if kind == "noise_only" else kind]))
        if kind == "speed":
            fits = self._fits(round(len(waveform) / value))
            return perturb.change_speed(waveform, value) if fits else waveform
        if kind == "band":
            return perturb.limit_band(waveform, 0.0, value)
        if kind == "gain":
            return perturb.change_gain(waveform, value)
        stretch = self._recordings["noise"].stretch(rng, len(waveform))
        noise = perturb.noise_at(waveform, stretch, value)
        return noise if kind == "noise_only" else waveform + noise

    def _fits(self, length: int) -> bool:
        return self._shortest <= length <= self._longest


def _range(kind: str, change: Mapping[str, Any]) -> tuple[float, float]:
    """Lowest and highest value of a kind; one without has none."""
    if change["path"] is not None and kind not in _RECORDED:
        raise ConfigError(f"{_KEY}.{kind}.path has no meaning: remove it")
    values, known = list(change["range"]), _RANGES.get(kind)
    if known is None:
        if values:
            raise ConfigError(f"{_KEY}.{kind}.range has no meaning: remove it")
        return 0.0, 0.0
    if len(values) != 2 or not known[0] <= values[0] <= values[1] <= known[1]:
        raise ConfigError(
            f"{_KEY}.{kind}.range={values}: write [lowest,highest] within {known[0]:g} and "
            f"{known[1]:g}"
        )
    return float(values[0]), float(values[1])


def _path(kind: str, change: Mapping[str, Any]) -> str:
    path = change["path"]
    if not path:
        raise ConfigError(f"{_KEY}.{kind} needs recordings: set {_KEY}.{kind}.path=DIR")
    return str(path)
