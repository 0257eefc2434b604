"""Shares of audio rather than of utterances: how long the utterances of a source are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tiny_audio.audio.io import probe_duration
from tiny_audio.data.records import Source
from tiny_audio.data.utterance import Record, Reject
from tiny_audio.errors import AudioError, DataError

UNITS = ("utterances", "hours")  # what weights are shares of
_LOOKED_AT = 200  # records, evenly spread


def mean_seconds(source: Source, declared: float | None) -> float:
    """Mean duration of a source's utterances, in seconds.

    Args:
        declared: taken as it is where it is given.

    Raises DataError where it is neither given nor cheap to measure: manifests tell it, and the
    heads of local files.
    """
    if declared is not None:
        if declared <= 0:
            raise DataError(f"data.train.{source.name}.mean_seconds={declared}: must be above 0.")
        return declared
    found: list[float] = []
    if source.length is not None and source.indexed:
        count = min(source.length, _LOOKED_AT)
        for position in np.linspace(0, source.length - 1, count).astype(int).tolist():
            seconds = _seconds(next(iter(source.records(position))))
            found += [] if seconds is None else [seconds]
    if not found:
        raise DataError(
            f"data.weights=hours needs to know how long the utterances of {source.name!r} are: set "
            f"data.train.{source.name}.mean_seconds."
        )
    return max(sum(found) / len(found), 0.01)


def _seconds(item: Record | Reject) -> float | None:
    if isinstance(item, Reject):
        return None
    if item.seconds is not None or not isinstance(item.audio, Path) or item.offset is not None:
        return item.seconds
    try:
        return probe_duration(item.audio)
    except AudioError:
        return None
