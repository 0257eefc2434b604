"""A folder or manifest of recordings to the hub: parquet files with the audio, and a card."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import soundfile
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData, hf_hub_download
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tiny_audio.audio.io import SAMPLE_RATE, load_audio
from tiny_audio.audio.remote import opened
from tiny_audio.data.records import Item, Record, Reject, RejectCounts
from tiny_audio.data.sources import open_set
from tiny_audio.errors import AudioError, DataError, HubError, first_line
from tiny_audio.share.card import TASK
from tiny_audio.share.hub import README, Target, check_target, send

_SHARD_BYTES = 256 << 20  # of audio
_STORED = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
_COLUMNS = {name: datasets.Value("string") for name in ("id", "text", "speaker")}
_FEATURES = datasets.Features({"audio": datasets.Audio(), **_COLUMNS})
_TEMPLATE = Path(__file__).with_name("data_card.md")


@dataclass(frozen=True)
class Shard:
    """A parquet file, how many recordings are in it, and of how many bytes."""

    path: Path
    rows: int
    audio_bytes: int


def data_push_command(data: str, target: Target, split: str) -> None:
    """Send a folder or manifest as one split of a data set; other splits there stay.

    Raises DataError where there is nothing to send, HubError where it cannot be sent.
    """
    check_target(target)
    if not re.fullmatch(r"\w+(\.\w+)*", split):
        raise DataError(f"--split {split}: use letters, digits and _, such as train or test.")
    if not Path(data).expanduser().exists():
        raise DataError(f"{data}: there is no such folder or manifest.")
    datasets.disable_progress_bars()
    skipped = RejectCounts()
    records = (record for source in open_set(data, "DATA") for record in source.records())
    with tempfile.TemporaryDirectory(prefix="tiny-audio-") as folder:
        shards = list(_write(records, Path(folder), skipped))
        if not shards:
            raise DataError(f"{data}: nothing in it can be sent: {skipped.why()}")
        for line in skipped.summary():
            print(line, file=sys.stderr)
        files: dict[str, Path | bytes] = {
            f"data/{split}-{n:05d}-of-{len(shards):05d}.parquet": shard.path
            for n, shard in enumerate(shards)
        }
        files[README] = _card(target, split, shards).encode()
        count = sum(shard.rows for shard in shards)
        print(f"{count:,} recordings in {len(shards)} files, split {split}")
        print(send(files, target, replaces=[f"data/{split}-*"], message=f"{count} of {split}"))


def _write(records: Iterable[Item], folder: Path, skipped: RejectCounts) -> Iterator[Shard]:
    """The records as shards; what cannot be read is counted."""
    rows: list[dict[str, Any]] = []
    size = number = 0

    def written() -> Shard:
        path = folder / f"{number}.parquet"
        table = datasets.Dataset.from_list(
            rows, features=datasets.Features(audio=_STORED, **_COLUMNS)
        )
        table.cast_column("audio", datasets.Audio()).to_parquet(path)
        return Shard(path, len(rows), size)

    for record in records:
        skipped.seen += 1
        row = _row(record)
        if isinstance(row, Reject):
            skipped.add(row)
            continue
        rows.append(row)
        size += len(row["audio"]["bytes"])
        if size >= _SHARD_BYTES:
            yield written()
            rows, size, number = [], 0, number + 1
    if rows:
        yield written()


def _row(record: Item) -> dict[str, Any] | Reject:
    if isinstance(record, Reject):
        return record
    try:
        name, audio = _audio(record)
    except AudioError as error:
        return Reject(record.id, record.source, error.reason, str(error))
    stored = {"bytes": audio, "path": name}
    return {"audio": stored, "id": record.id, "text": record.text, "speaker": record.speaker}


def _audio(record: Record) -> tuple[str, bytes]:
    """A file's name and its bytes as they are, or of a stretch of it a file of its own."""
    source: Any = record.audio() if callable(record.audio) else record.audio
    name = PurePosixPath(Path(str(source)).as_posix())
    if record.offset is None:
        with opened(source) as (file, _):
            return name.name, file.read()
    waveform = load_audio(source, offset=record.offset, duration=record.seconds)
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    return f"{name.stem}-{record.offset:g}.flac", file.getvalue()


def _card(target: Target, split: str, shards: list[Shard]) -> str:
    """The set's card with this split in it; what else stands in the card on the hub stays."""
    data = DatasetCardData(task_categories=[TASK])
    name = target.repo_id
    card = DatasetCard.from_template(data, template_path=str(_TEMPLATE), name=name)
    if not target.dry_run:
        try:
            where: dict[str, Any] = {"repo_type": "dataset", "revision": target.revision}
            card = DatasetCard.load(hf_hub_download(target.repo_id, README, **where))
        except (RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
            pass  # a new set
        except Exception as error:  # of httpx, huggingface_hub and the disk: no common base
            raise HubError(
                f"{target.repo_id}: its card cannot be read ({first_line(error).rstrip('.')}): "
                "nothing was sent; run again"
            ) from error
    infos = DatasetInfosDict.from_dataset_card_data(card.data)
    info = infos.get("default", datasets.DatasetInfo(splits=datasets.SplitDict()))
    splits = info.splits if info.splits is not None else datasets.SplitDict()
    size = {
        "num_bytes": sum(s.audio_bytes for s in shards),
        "num_examples": sum(s.rows for s in shards),
    }
    splits[split] = datasets.SplitInfo(split, **size)
    info = replace(info, features=_FEATURES, splits=splits)
    info.dataset_size = sum(one.num_bytes for one in splits.values())
    DatasetInfosDict({"default": info}).to_dataset_card_data(card.data)
    files = [{"split": name, "path": f"data/{name}-*"} for name in splits]
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(card.data)
    return str(card)
