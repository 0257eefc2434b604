"""Opening a Hugging Face dataset for streaming, with its audio left as it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from tiny_audio.data.remote import CORRUPT, UNREACHABLE, Patience
from tiny_audio.data.utterance import Audio, LazyAudio
from tiny_audio.errors import AudioError, DataError


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

    # Its own waits have a fixed length and last minutes; ours come on top of them.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 2
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 1

    arguments: dict[str, Any] = {"name": subset, "revision": revision, **options}
    builder = path
    if Path(path).is_file():
        kinds = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
        if Path(path).suffix not in kinds:
            raise DataError(f"{path} is no {' / '.join(kinds)} file: set {key}.path or {key}.kind.")
        builder = kinds[Path(path).suffix]
        arguments["data_files"] = {split: path}
    failures = 0
    while True:
        try:
            dataset = datasets.load_dataset(builder, split=split, streaming=True, **arguments)
            return dataset if dataset.column_names else dataset._resolve_features()
        except Exception as error:  # hub, network, parser and builder errors share no base class
            failures += 1
            if not _passing(error) or failures > patience.retries:
                raise DataError(
                    f"The dataset {path} (subset {subset}, split {split}) cannot be opened: "
                    f"{failure_of(error)[1]} Check {key}.path, {key}.subset and {key}.split."
                ) from error
        patience.wait(failures, Event())


def failure_of(error: Exception) -> tuple[str, str]:
    """Why a shard of `datasets` cannot be read: the reason to count it under, and one line."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    cause: BaseException | None = error
    while cause is not None:
        if _from_network(cause) or (isinstance(cause, OSError) and cause.errno is not None):
            return UNREACHABLE, line
        cause = cause.__cause__ or cause.__context__
    return CORRUPT, line


def _from_network(error: BaseException) -> bool:
    home = type(error).__module__.partition(".")[0]
    known = (ConnectionError, TimeoutError, FileNotFoundError, PermissionError)
    return isinstance(error, known) or home in ("httpx", "httpcore", "huggingface_hub", "fsspec")


def _passing(error: Exception) -> bool:
    """Whether opening may well succeed in a while: the network, not the name of the dataset."""
    if "offline" in str(error).lower() or isinstance(error, FileNotFoundError):
        return False
    status = getattr(getattr(error, "response", None), "status_code", 500)
    return _from_network(error) and (status >= 500 or status == 429)


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
