"""Folders: audio files with a .txt of the same name beside each, or a metadata.csv / .jsonl."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_audio.data.manifest import check_columns
from tiny_audio.data.records import IndexedSource, Record, Spec, text_of
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import DataError, SourceError

AUDIO_SUFFIXES = frozenset({
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov",
    ".mp2", ".mp3", ".mp4", ".mpga", ".oga", ".ogg", ".opus", ".sph", ".wav", ".webm", ".wma",
})  # fmt: skip


class FolderSource(IndexedSource):
    """Audio files at any depth, in the order of their paths; the id is the relative path.

    A metadata file describes files by ``file_name``, relative to itself, and goes before a .txt.
    Raises SourceError if the folder has no audio, or a metadata file lacks a column.
    """

    def __init__(self, name: str, spec: Spec) -> None:
        super().__init__(name, spec["weight"], spec["max_samples"])
        self._path = path = Path(spec["path"]).expanduser()
        self._text, self._id = spec["text_column"], spec["id_column"]
        self._speaker = spec["speaker_column"]
        if not path.is_dir():
            raise SourceError(f"There is no folder {path}", setting="path")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        self._rows: dict[Path, dict[str, Any]] = {}  # relative path -> its metadata
        for file in files:
            if file.name in ("metadata.csv", "metadata.jsonl"):
                self._read_metadata(file)
        found = {file.relative_to(path) for file in files if file.suffix.lower() in AUDIO_SUFFIXES}
        # A file that is described but missing is part of the set: reading it says that it's gone.
        self._files = sorted(found | self._rows.keys(), key=lambda file: file.as_posix())
        if not self._files:
            raise SourceError(f"The folder {path} has no audio files", setting="path")

    def size(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Record | Reject:
        file = self._files[index]
        row = dict(self._rows.get(file, {}))
        record_id = (text_of(row.pop(self._id, None)) if self._id else None) or file.as_posix()
        speaker = text_of(row.pop(self._speaker, None)) if self._speaker else None
        beside = (self._path / file).with_suffix(".txt")
        try:
            text = text_of(row.pop("text")) if row else beside.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            return Reject(record_id, self.name, "bad_record", f"the .txt is not UTF-8 ({error})")
        except FileNotFoundError:
            text = None
        if text is None:
            return Reject(record_id, self.name, "no_transcript", "no .txt beside it, no metadata")
        return Record(record_id, self.name, self._path / file, text, speaker, extra=row)

    def _read_metadata(self, file: Path) -> None:
        for row in _rows(file):
            if "file_name" not in row:
                raise DataError(
                    f"{file} has no column 'file_name', but {', '.join(map(str, row))}: it must "
                    "give the path of each audio file, relative to itself."
                )
            wanted = {"text_column": self._text, "id_column": self._id}
            check_columns(wanted, list(row), where=str(file))
            audio = (file.parent / str(row.pop("file_name"))).relative_to(self._path)
            transcript = row.pop(self._text)
            self._rows[audio] = {**row, "text": transcript}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The metadata file's rows; a file that is not in its format is a DataError."""
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix == ".csv":
            yield from csv.DictReader(io.StringIO(text, newline=""))
            return
        for line in text.split("\n"):
            if line.strip():
                yield dict(json.loads(line))
    except (UnicodeDecodeError, ValueError, TypeError, csv.Error) as error:
        kind = file.suffix[1:]
        raise DataError(f"{file} cannot be read as {kind} ({error}): mend it.") from error
