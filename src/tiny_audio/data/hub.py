"""Sources in shards, opened: Hugging Face datasets, and files of parquet and WebDataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_audio import hub, logs
from tiny_audio.audio.remote import RetryPolicy
from tiny_audio.data.files import FileShards, HubShards, find_shards
from tiny_audio.data.local import check_columns
from tiny_audio.data.shards import ShardSource
from tiny_audio.errors import DataError, first_line

logger = logging.getLogger(__name__)

RETRY_OPTIONS = ("on_failure", "retries", "backoff", "timeout")  # of a source in shards
_ROLES = ("audio", "text", "id", "speaker")


def open_shards(name: str, spec: Mapping[str, Any], key: str) -> ShardSource:
    """Open a dataset of the hub or a folder of its files, or files of parquet or WebDataset.

    Raises DataError if there is none, or if it lacks a column.
    """
    kind, path = spec["kind"], spec["path"]
    policy, stop_at_loss = _retry_options(spec["options"], f"{key}.options")
    columns: dict[str, str | None] = {role: spec[f"{role}_column"] for role in _ROLES}
    shards: HubShards | FileShards
    if kind == "hub":
        dataset = _open_dataset(spec, key)
        found, where = list(dataset.column_names or []), f"The dataset {path}"
    else:
        shards = FileShards(kind, find_shards(path, kind, key), columns, policy)
        found, where, size = shards.found_columns(key), shards.names[0], shards.size()
    check_columns({f"{role}_column": columns[role] for role in _ROLES[:3]}, found, where=where)
    if columns["speaker"] not in found and kind != "webdataset":  # it need not be there
        columns["speaker"] = None
    if kind == "hub":
        dataset = _undecoded(dataset, columns, f"{key}.audio_column")
        split = (dataset.info.splits or {}).get(spec["split"] or "train")
        size = split.num_examples if split else None
        shards = HubShards(dataset, path, policy)
    return ShardSource(
        name,
        spec["weight"],
        shards,
        columns=columns,
        max_samples=spec["max_samples"],
        size=size,
        stop_at_loss=stop_at_loss,
    )


def _retry_options(options: Mapping[str, Any], where: str) -> tuple[RetryPolicy, bool]:
    """How long a shard is waited for, and whether a lost one ends the run; or a DataError."""
    on_failure = options.get("on_failure", "skip")
    if on_failure not in ("skip", "stop"):
        raise DataError(f"{where}.on_failure={on_failure}: use skip or stop.")
    chosen = {name: options[name] for name in RETRY_OPTIONS[1:] if name in options}
    for name, value in chosen.items():
        least = 0.001 if name == "timeout" else 0
        whole = name == "retries"
        if type(value) not in (int, float) or value < least or (whole and value != int(value)):
            raise DataError(f"{where}.{name}={value}: use a number from {least} on.")
    return RetryPolicy(**chosen), on_failure == "stop"


def _open_dataset(spec: Mapping[str, Any], key: str) -> Any:
    """The streaming dataset, from the cache where the hub is out of reach, or a DataError."""
    import datasets

    # Its own waits have a fixed length and last minutes; ours come on top of them.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 2
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 1
    logs.route_libraries()
    if Path(spec["path"]).is_file():
        what = f"{spec['path']} is a file: set {key}.kind to parquet or webdataset"
        raise DataError(f"{what}, or {key}.path to its folder.")
    path, split, revision = spec["path"], spec["split"] or "train", spec["revision"]
    options = {name: value for name, value in spec["options"].items() if name not in RETRY_OPTIONS}

    def load(path: str, revision: str | None) -> Any:
        kwargs = {"name": spec["subset"], "revision": revision, **options}
        with hub.bars(shown=False):  # of the README: the set itself is streamed
            dataset = datasets.load_dataset(path, split=split, streaming=True, **kwargs)
        return dataset if dataset.column_names else dataset._resolve_features()

    try:
        try:
            return load(path, revision)
        except Exception as error:  # hub, network, parser and builder errors share no base class
            there = None
            if not Path(path).exists() and hub.is_unreachable(error):
                there = hub.cached(path, revision, files=["README.md"], repo_type="dataset")
            if there is None:
                raise
            logger.warning("%s is read from the cache: the hub is out of reach", path)
            return load(str(there), None)
    except Exception as error:
        raise DataError(_cannot_open(error, spec, key)) from error


def _cannot_open(error: Exception, spec: Mapping[str, Any], key: str) -> str:
    path, subset, split = spec["path"], spec["subset"], spec["split"] or "train"
    what = f"The dataset {path} (subset {subset}, split {split}) cannot be opened"
    if hub.is_unreachable(error):
        part = f" --include README.md --include '*{subset}*'" if subset else ""
        return (
            f"{what}: {first_line(error).rstrip('.')}. To read it without a network, fetch it "
            f"where there is one: hf download {path} --repo-type dataset{part}"
        )
    if known := hub.explain(error, path, spec["revision"], "dataset"):
        return f"{known} ({key}.path)"
    return f"{what}: {first_line(error)} Check {key}.path, {key}.subset and {key}.split."


def _undecoded(dataset: Any, columns: Mapping[str, str | None], setting: str) -> Any:
    """Only the used columns, the audio as the bytes or path that are stored."""
    import datasets

    audio = columns["audio"]
    feature = dataset.features[audio]
    names = feature.keys() if isinstance(feature, dict) else ()
    stored = getattr(feature, "dtype", None) in ("string", "binary")
    if not (stored or {"bytes", "path"} & {*names} or isinstance(feature, datasets.Audio)):
        raise DataError(f"The column {audio!r} holds {feature}, no audio: set {setting}.")
    dataset = dataset.select_columns([name for name in dict.fromkeys(columns.values()) if name])
    return dataset.cast_column(audio, datasets.Audio(decode=False))
