"""Opening a Hugging Face dataset for streaming, with its audio left as it is stored."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from tiny_audio import hub, logs
from tiny_audio.data.records import Audio, LazyAudio
from tiny_audio.data.remote import CORRUPT, UNREACHABLE, Patience
from tiny_audio.errors import AudioError, DataError

logger = logging.getLogger(__name__)

_OPENING_RETRIES = 2  # the hub's own client makes five attempts each time, in about 25 s


@dataclass(frozen=True)
class RemoteFile:
    """Audio that a dataset names but does not hold; fetched when it is called, in a worker."""

    path: str

    def __call__(self) -> bytes:
        """The file's bytes; raises AudioError if it cannot be had."""
        import fsspec

        try:
            with fsspec.open(self.path, "rb") as file:
                return bytes(file.read())
        except Exception as error:  # every file system of fsspec has its own
            message = f"{self.path} cannot be fetched ({type(error).__name__}: {error})"
            raise AudioError(message, reason="unreadable") from error


def audio_of(value: dict[str, Any] | None) -> tuple[Audio | LazyAudio | None, str]:
    """The audio of an undecoded `Audio` value, and the path it names ("" where there is none)."""
    if value is None:
        return None, ""
    path = str(value["path"] or "")
    if value["bytes"] is not None:
        return bytes(value["bytes"]), path
    if "://" in path:
        return RemoteFile(path), path
    return Path(path) if path else None, path


def open_dataset(
    path: str,
    subset: str | None,
    split: str,
    revision: str | None,
    options: dict[str, Any],
    key: str,
    patience: Patience,
) -> Any:
    """The streaming dataset with its features known; raises DataError if it cannot be opened."""
    import datasets
    from huggingface_hub.constants import HF_HUB_OFFLINE

    offline = HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE
    # Its own waits have a fixed length and last minutes; ours come on top of them.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 2
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 1

    logs.route_libraries()
    arguments: dict[str, Any] = {"name": subset, "revision": revision, **options}
    builder = path
    if Path(path).is_file():
        kinds = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
        if Path(path).suffix not in kinds:
            raise DataError(f"{path} is no {' / '.join(kinds)} file: set {key}.path or {key}.kind.")
        builder = kinds[Path(path).suffix]
        arguments["data_files"] = {split: path}
    retries = min(_OPENING_RETRIES, patience.retries)
    failures = 0
    while True:
        try:
            with hub.bars(shown=False):  # of the README: the set itself is streamed
                dataset = datasets.load_dataset(builder, split=split, streaming=True, **arguments)
            return dataset if dataset.column_names else dataset._resolve_features()
        except Exception as error:  # hub, network, parser and builder errors share no base class
            failures += 1
            away = builder == path and not Path(path).exists() and hub.is_unreachable(error)
            if not away or offline or failures > retries:
                # What 'hf download' has fetched serves as well; its README tells the subsets.
                there = hub.cached(path, revision, files=("README.md",), repo_type="dataset")
                if not away or there is None:
                    raise DataError(
                        _cannot_open(error, path, subset, split, revision, key)
                    ) from error
                logger.warning("%s is read from the cache: the hub is out of reach", path)
                builder, arguments["revision"] = str(there), None
                continue
            if failures == 1:
                logger.warning(
                    "The hub cannot be reached (%s): trying again, up to %d times",
                    *(failure_of(error)[1], retries),
                )
        patience.wait(failures, Event())


def _cannot_open(
    error: Exception, path: str, subset: str | None, split: str, revision: str | None, key: str
) -> str:
    what = f"The dataset {path} (subset {subset}, split {split}) cannot be opened"
    if hub.is_unreachable(error):
        part = f" --include README.md '*{subset}*'" if subset else ""
        return (
            f"{what}: {failure_of(error)[1].rstrip('.')}. To read it without a network, fetch it "
            f"where there is one: hf download {path} --repo-type dataset{part}"
        )
    known = hub.explain(error, path, revision, "dataset")
    if known is not None:
        return f"{known} ({key}.path)"
    line = failure_of(error)[1]
    return f"{what}: {line} Check {key}.path, {key}.subset and {key}.split."


def failure_of(error: Exception) -> tuple[str, str]:
    """Why a shard of `datasets` cannot be read: the reason to count it under, and one line."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    known = (FileNotFoundError, PermissionError)
    away = hub.is_unreachable(error) or any(
        isinstance(cause, known) or (isinstance(cause, OSError) and cause.errno is not None)
        for cause in hub.causes(error)
    )
    return (UNREACHABLE if away else CORRUPT), line


def undecoded(dataset: Any, column: str, used: list[str | None], setting: str) -> Any:
    """Only the used columns, the audio as the bytes or path that are stored."""
    import datasets

    feature = dataset.features[column]
    if isinstance(feature, dict):
        holds_audio = bool(feature.keys() & {"bytes", "path"})
    else:
        stored = getattr(feature, "dtype", None)
        holds_audio = isinstance(feature, datasets.Audio) or stored in ("string", "binary")
    if not holds_audio:
        raise DataError(f"The column {column!r} holds {feature}, no audio: set {setting}.")
    dataset = dataset.select_columns([name for name in dict.fromkeys(used) if name])
    return dataset.cast_column(column, datasets.Audio(decode=False))
