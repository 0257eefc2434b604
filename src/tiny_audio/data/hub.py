"""Sources in shards, opened: Hugging Face datasets, and files of parquet, arrow and WebDataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from threading import Event
from typing import Any

from tiny_audio.data.files import FileShards, find_shards
from tiny_audio.data.hub_open import failure_of, open_dataset, undecoded
from tiny_audio.data.manifest import check_columns
from tiny_audio.data.remote import CORRUPT, PATIENCE, Patience, ShardError
from tiny_audio.data.shards import ShardSource

_ROLES = ("audio", "text", "id", "speaker")


class HubShards:
    """The shards of a streaming dataset of `datasets`; each is read for itself."""

    def __init__(self, dataset: Any, path: str, patience: Patience) -> None:
        self._dataset, self._patience = dataset, patience
        count = dataset.num_shards
        self.names = [f"{path}, {number} of {count}" for number in range(1, count + 1)]

    def rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        """Rows of a shard from `start` on; raises ShardError where that cannot be."""
        view = self._dataset.shard(num_shards=len(self.names), index=shard, contiguous=True)
        failures = 0
        while True:
            try:
                for row in islice(iter(view), start, None):
                    start, failures = start + 1, 0
                    yield row
                return
            except Exception as error:  # hub, network, parser and builder share no base class
                reason, line = failure_of(error)
                failures += 1
                allowed = min(1, self._patience.retries) if reason == CORRUPT else None
                allowed = self._patience.retries if allowed is None else allowed
                if failures > allowed or stopped.is_set():
                    raise ShardError(f"{line} (tried {failures} times)", reason) from error
            self._patience.wait(failures, stopped)


def open_hub(name: str, spec: Mapping[str, Any], key: str) -> ShardSource:
    """Open a dataset of the Hugging Face Hub, or a folder of such files.

    Raises DataError if the dataset cannot be opened or lacks a column.
    """
    path, split = spec["path"], spec["split"] or "train"
    patience = Patience.from_options(spec["options"], key)
    options = {name: value for name, value in spec["options"].items() if name not in PATIENCE}
    dataset = open_dataset(path, spec["subset"], split, spec["revision"], options, key, patience)
    found = list(dataset.column_names or [])
    columns = _columns(spec, found, f"The dataset {path}")
    used = [columns[role] for role in _ROLES]
    dataset = undecoded(dataset, spec["audio_column"], used, f"{key}.audio_column")
    splits = dataset.info.splits or {}
    return ShardSource(
        name,
        spec["weight"],
        HubShards(dataset, path, patience),
        columns=columns,
        max_samples=spec["max_samples"],
        size=splits[split].num_examples if split in splits else None,
        patience=patience,
    )


def open_files(name: str, spec: Mapping[str, Any], key: str) -> ShardSource:
    """Open parquet, arrow or WebDataset files, on this machine or at addresses.

    Raises DataError if there are none, or if the first that can be read lacks a column.
    """
    patience = Patience.from_options(spec["options"], key)
    places = find_shards(spec["path"], spec["kind"], key)
    wanted = {role: spec[f"{role}_column"] for role in _ROLES}
    shards = FileShards(spec["kind"], places, wanted, patience)
    columns = _columns(spec, shards.columns(key), shards.names[0])
    shards = FileShards(spec["kind"], places, columns, patience)
    return ShardSource(
        name,
        spec["weight"],
        shards,
        columns=columns,
        max_samples=spec["max_samples"],
        size=shards.size(),
        patience=patience,
    )


def _columns(spec: Mapping[str, Any], found: list[str], where: str) -> dict[str, str | None]:
    """Role -> column; raises DataError for one that is not there. The speaker need not be."""
    settings = {f"{role}_column": spec[f"{role}_column"] for role in _ROLES[:3]}
    check_columns(settings, found, where=where)
    speaker = spec["speaker_column"]
    speaker = speaker if speaker in found or spec["kind"] == "webdataset" else None
    return {role: spec[f"{role}_column"] for role in _ROLES[:3]} | {"speaker": speaker}
