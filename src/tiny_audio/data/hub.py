"""Sources in shards, opened: Hugging Face datasets, and files of parquet, arrow and WebDataset."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

from tiny_audio import hub, logs
from tiny_audio.audio.remote import CORRUPT, UNREACHABLE, RetryPolicy, UnreadableError
from tiny_audio.data.files import FileShards, find_shards
from tiny_audio.data.manifest import check_columns
from tiny_audio.data.shards import ShardSource
from tiny_audio.errors import DataError

logger = logging.getLogger(__name__)

RETRY_OPTIONS = ("on_failure", "retries", "backoff", "timeout")  # of a source in shards
_OPENING_RETRIES = 2  # the hub's own client makes five attempts each time, in about 25 s
_ROLES = ("audio", "text", "id", "speaker")
_FILE_KINDS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


class HubShards:
    """The shards of a streaming dataset of `datasets`; each is read for itself."""

    def __init__(self, dataset: Any, path: str, policy: RetryPolicy) -> None:
        self._dataset, self._policy = dataset, policy
        count = dataset.num_shards
        self.names = [f"{path}, {number} of {count}" for number in range(1, count + 1)]

    def rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        """Rows of a shard from `start` on; raises UnreadableError where that cannot be."""
        view = self._dataset.shard(num_shards=len(self.names), index=shard, contiguous=True)
        failures = 0
        while True:
            try:
                for row in islice(iter(view), start, None):
                    start, failures = start + 1, 0
                    yield row
                return
            except Exception as error:  # hub, network, parser and builder share no base class
                reason, line = _failure_of(error)
                failures += 1
                retries = min(self._policy.retries, 1 if reason == CORRUPT else math.inf)
                if failures > retries or stopped.is_set():
                    raise UnreadableError(f"{line} (tried {failures} times)", reason) from error
                if failures == 1:
                    logger.warning("%s: %s; trying again", self.names[shard], line)
            self._policy.wait(failures, stopped)


def open_hub(name: str, spec: Mapping[str, Any], key: str) -> ShardSource:
    """Open a dataset of the Hugging Face Hub, or a folder of such files.

    Raises DataError if the dataset cannot be opened or lacks a column.
    """
    policy, stop_at_loss = _retry_options(spec["options"], key)
    dataset = _open_dataset(spec, key, policy)
    columns = _columns(spec, list(dataset.column_names or []), f"The dataset {spec['path']}")
    dataset = _undecoded(dataset, columns, f"{key}.audio_column")
    split = (dataset.info.splits or {}).get(spec["split"] or "train")
    return ShardSource(
        name,
        spec["weight"],
        HubShards(dataset, spec["path"], policy),
        columns=columns,
        max_samples=spec["max_samples"],
        size=split.num_examples if split else None,
        stop_at_loss=stop_at_loss,
    )


def open_files(name: str, spec: Mapping[str, Any], key: str) -> ShardSource:
    """Open parquet, arrow or WebDataset files, on this machine or at addresses.

    Raises DataError if there are none, or if the first that can be read lacks a column.
    """
    policy, stop_at_loss = _retry_options(spec["options"], key)
    paths = find_shards(spec["path"], spec["kind"], key)
    wanted = {role: spec[f"{role}_column"] for role in _ROLES}
    shards = FileShards(spec["kind"], paths, wanted, policy)
    shards.columns = _columns(spec, shards.found_columns(key), shards.names[0])
    return ShardSource(
        name,
        spec["weight"],
        shards,
        columns=shards.columns,
        max_samples=spec["max_samples"],
        size=shards.size(),
        stop_at_loss=stop_at_loss,
    )


def _retry_options(options: Mapping[str, Any], key: str) -> tuple[RetryPolicy, bool]:
    """How long a shard is waited for, and whether a lost one ends the run; or a DataError."""
    where = f"{key}.options"
    on_failure = options.get("on_failure", "skip")
    if on_failure not in ("skip", "stop"):
        raise DataError(f"{where}.on_failure={on_failure}: use skip or stop.")
    chosen = {name: options[name] for name in RETRY_OPTIONS[1:] if name in options}
    for name, value in chosen.items():
        least = 0.001 if name == "timeout" else 0
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value < least or (name == "retries" and value != int(value)):
            raise DataError(f"{where}.{name}={value}: use a number from {least} on.")
    return RetryPolicy(**chosen), on_failure == "stop"


def _columns(spec: Mapping[str, Any], found: list[str], where: str) -> dict[str, str | None]:
    """Role -> column; raises DataError for one that is not there. The speaker need not be."""
    columns = {role: spec[f"{role}_column"] for role in _ROLES}
    wanted = {f"{role}_column": columns[role] for role in _ROLES[:3]}
    check_columns(wanted, found, where=where)
    if columns["speaker"] not in found and spec["kind"] != "webdataset":
        columns["speaker"] = None
    return columns


def _open_dataset(spec: Mapping[str, Any], key: str, policy: RetryPolicy) -> Any:
    """The streaming dataset with its features known; raises DataError if it cannot be opened."""
    import datasets
    from huggingface_hub.constants import HF_HUB_OFFLINE

    offline = HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE
    # Its own waits have a fixed length and last minutes; ours come on top of them.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 2
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 1

    logs.route_libraries()
    path, split, revision = spec["path"], spec["split"] or "train", spec["revision"]
    options = {name: value for name, value in spec["options"].items() if name not in RETRY_OPTIONS}
    kwargs: dict[str, Any] = {"name": spec["subset"], "revision": revision, **options}
    builder = path
    if Path(path).is_file():
        suffix = Path(path).suffix
        if suffix not in _FILE_KINDS:
            kinds = " / ".join(_FILE_KINDS)
            raise DataError(f"{path} is no {kinds} file: set {key}.path or {key}.kind.")
        builder, kwargs["data_files"] = _FILE_KINDS[suffix], {split: path}
    retries = min(_OPENING_RETRIES, policy.retries)
    failures = 0
    while True:
        try:
            with hub.bars(shown=False):  # of the README: the set itself is streamed
                dataset = datasets.load_dataset(builder, split=split, streaming=True, **kwargs)
            return dataset if dataset.column_names else dataset._resolve_features()
        except Exception as error:  # hub, network, parser and builder errors share no base class
            failures += 1
            away = builder == path and not Path(path).exists() and hub.is_unreachable(error)
            if not away or offline or failures > retries:
                # What 'hf download' has fetched serves as well; its README tells the subsets.
                there = hub.cached(path, revision, files=["README.md"], repo_type="dataset")
                if not away or there is None:
                    raise DataError(_cannot_open(error, spec, key)) from error
                logger.warning("%s is read from the cache: the hub is out of reach", path)
                builder, kwargs["revision"] = str(there), None
                continue
            if failures == 1:
                logger.warning(
                    "The hub cannot be reached (%s): trying again, up to %d times",
                    *(_failure_of(error)[1], retries),
                )
        policy.wait(failures, Event())


def _cannot_open(error: Exception, spec: Mapping[str, Any], key: str) -> str:
    path, subset, split = spec["path"], spec["subset"], spec["split"] or "train"
    what = f"The dataset {path} (subset {subset}, split {split}) cannot be opened"
    line = _failure_of(error)[1]
    if hub.is_unreachable(error):
        part = f" --include README.md --include '*{subset}*'" if subset else ""
        return (
            f"{what}: {line.rstrip('.')}. To read it without a network, fetch it "
            f"where there is one: hf download {path} --repo-type dataset{part}"
        )
    known = hub.explain(error, path, spec["revision"], "dataset")
    if known is not None:
        return f"{known} ({key}.path)"
    return f"{what}: {line} Check {key}.path, {key}.subset and {key}.split."


def _failure_of(error: Exception) -> tuple[str, str]:
    """Why a shard of `datasets` cannot be read: unreachable or corrupt, and one line."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    away = hub.is_unreachable(error) or any(
        isinstance(cause, FileNotFoundError | PermissionError)
        or (isinstance(cause, OSError) and cause.errno is not None)
        for cause in hub.causes(error)
    )
    return (UNREACHABLE if away else CORRUPT), line


def _undecoded(dataset: Any, columns: Mapping[str, str | None], setting: str) -> Any:
    """Only the used columns, the audio as the bytes or path that are stored."""
    import datasets

    audio = columns["audio"]
    feature = dataset.features[audio]
    if isinstance(feature, dict):
        holds_audio = bool(feature.keys() & {"bytes", "path"})
    else:
        stored = getattr(feature, "dtype", None)
        holds_audio = isinstance(feature, datasets.Audio) or stored in ("string", "binary")
    if not holds_audio:
        raise DataError(f"The column {audio!r} holds {feature}, no audio: set {setting}.")
    dataset = dataset.select_columns([name for name in dict.fromkeys(columns.values()) if name])
    return dataset.cast_column(audio, datasets.Audio(decode=False))
