"""Datasets of the Hugging Face Hub, or of folders in its form, streamed by `datasets`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

from tiny_audio import hub, logs
from tiny_audio.audio.remote import CORRUPT, UNREACHABLE, RetryPolicy, UnreadableError
from tiny_audio.data.records import Spec
from tiny_audio.errors import DataError, first_line

logger = logging.getLogger(__name__)


class HubShards:
    """The shards of a streaming dataset of `datasets`; each is read for itself."""

    def __init__(
        self, dataset: Any, spec: Spec, columns: dict[str, str | None], policy: RetryPolicy
    ) -> None:
        self._dataset, self.columns, self.policy = dataset, columns, policy
        self._split, count = spec["split"] or "train", dataset.num_shards
        self.names = [f"{spec['path']}, {number} of {count}" for number in range(1, count + 1)]
        self.paths = [""] * count

    def size(self) -> int | None:
        """Rows altogether, where the dataset says it."""
        split = (self._dataset.info.splits or {}).get(self._split)
        return split.num_examples if split else None

    def rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        view = self._dataset.shard(num_shards=len(self.names), index=shard, contiguous=True)
        try:
            yield from islice(iter(view), start, None)
        except Exception as error:  # hub, network, parser and builder share no base class
            away = hub.is_unreachable(error) or any(
                isinstance(cause, FileNotFoundError | PermissionError)
                or (isinstance(cause, OSError) and cause.errno is not None)
                for cause in hub.causes(error)
            )
            raise UnreadableError(first_line(error), UNREACHABLE if away else CORRUPT) from error

    def retries(self, shard: int, reason: str) -> int:
        return self.policy.retries if reason == UNREACHABLE else min(1, self.policy.retries)


def open_dataset(spec: Spec, key: str, options: dict[str, Any]) -> Any:
    """The streaming dataset, from the cache where the hub is out of reach, or a DataError."""
    import datasets

    # Its own waits have a fixed length and last minutes; ours come on top of them.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 2
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 1
    logs.route_libraries()
    path, split, revision = spec["path"], spec["split"] or "train", spec["revision"]

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
        subset, why = spec["subset"], first_line(error)
        what = f"The dataset {path} (subset {subset}, split {split}) cannot be opened: {why}"
        if hub.is_unreachable(error):
            part = f" --include README.md --include '*{subset}*'" if subset else ""
            fetch = f"hf download {path} --repo-type dataset{part}"
            remedy = f"To read it without a network, fetch it where there is one: {fetch}"
            raise DataError(f"{what.rstrip('.')}. {remedy}") from error
        if known := hub.explain(error, path, revision, "dataset"):
            raise DataError(f"{known} ({key}.path)") from error
        raise DataError(f"{what} Check {key}.path, {key}.subset and {key}.split.") from error


def undecoded(dataset: Any, columns: Mapping[str, str | None], setting: str) -> Any:
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
