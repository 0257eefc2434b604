"""Sets on this machine that are read record by record: manifests, and folders of recordings."""

from __future__ import annotations

import csv
import io
import json
import math
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiny_audio.audio.remote import is_remote
from tiny_audio.data.records import IndexedSource, Record, Reject, Spec, text_of
from tiny_audio.errors import DataError, SourceError

AUDIO_SUFFIXES = frozenset({
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov",
    ".mp2", ".mp3", ".mp4", ".mpga", ".oga", ".ogg", ".opus", ".sph", ".wav", ".webm", ".wma",
})  # fmt: skip
# Not UTF-8 or no JSON; nested too deeply; a number beyond any float.
_BAD_LINE = (ValueError, RecursionError, OverflowError)


class _LocalSource(IndexedSource):
    def __init__(self, name: str, spec: Spec) -> None:
        super().__init__(name, spec["weight"], spec["max_samples"])
        self._path = Path(spec["path"]).expanduser()
        self._audio, self._text = spec["audio_column"], spec["text_column"]
        self._id, self._speaker = spec["id_column"], spec["speaker_column"]


class ManifestSource(_LocalSource):
    """JSON lines of NeMo's form: ``{"audio_filepath": "a.flac", "text": "...", "duration": 3.2}``.

    ``offset`` with ``duration`` names a stretch of a longer file. Paths are relative to the
    manifest, ids are the paths unless there is a column. Only positions are kept in memory, 16
    bytes a line. Raises SourceError if the file cannot be read or its first record lacks a column.
    """

    def __init__(self, name: str, spec: Spec) -> None:
        super().__init__(name, spec)
        # Byte offset and number (from 1) of every line that is not blank
        self._starts, self._numbers, position = array("q"), array("q"), 0
        where = f"The manifest {self._path}"
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._starts.append(position)
                        self._numbers.append(number)
                    position += len(line)
        except OSError as error:
            raise SourceError(
                f"{where} cannot be read ({error.strerror})", setting="path"
            ) from error
        self.size = len(self._starts)
        if not self.size:
            raise SourceError(f"{where} is empty", setting="path")
        wanted = {"audio_column": self._audio, "text_column": self._text, "id_column": self._id}
        for index in range(min(self.size, 100)):
            with suppress(*_BAD_LINE):
                check_columns(wanted, [*self._row(index)], where=where)
                return
        raise SourceError(f"{where} is not of one JSON object a line", setting="path")

    def read(self, index: int) -> Record | Reject:
        try:
            return self._record(self._row(index))
        except _BAD_LINE as error:
            line = f"{self._path.name}:{self._numbers[index]}"
            return Reject(line, self.name, "bad_record", str(error))

    def _row(self, index: int) -> dict[str, Any]:
        """The line's JSON object; raises one of _BAD_LINE where it is none."""
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            row = json.loads(file.readline().decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
        return row

    def _record(self, row: dict[str, Any]) -> Record | Reject:
        audio, text = row.get(self._audio), text_of(row.get(self._text))
        if not isinstance(audio, str) or not audio or "\0" in audio:
            raise ValueError(f"no path in the column {self._audio!r}")
        record_id = text_of(row.get(self._id)) if self._id else audio
        if record_id is None:
            raise ValueError(f"no id in the column {self._id!r}")
        if text is None:
            return Reject(record_id, self.name, "no_transcript", f"no text in {self._text!r}")
        seconds, offset = _number(row.get("duration")), _number(row.get("offset"))
        if offset is not None:
            if offset < 0:
                raise ValueError(f"the offset {offset:g} is before the beginning")
            record_id = f"{record_id}@{offset:g}"
        path = audio if is_remote(audio) else self._path.parent / audio
        speaker = text_of(row.get(self._speaker)) if self._speaker else None
        used = (self._audio, self._text, self._id, self._speaker, "duration", "offset")
        extra = {name: value for name, value in row.items() if name not in used}
        return Record(record_id, self.name, path, text, speaker, seconds, offset, extra=extra)


def check_columns(wanted: dict[str, str | None], found: list[str], *, where: str) -> None:
    """Raise SourceError for a wanted column (setting -> column) that is not among those found."""
    for setting, column in wanted.items():
        if column is not None and column not in found:
            columns = ", ".join(map(str, found)) or "none"
            raise SourceError(f"{where} has no column {column!r}, but {columns}", setting=setting)


def _number(value: Any) -> float | None:
    """A finite number, which JSON in Python need not be."""
    if value is None or (type(value) in (int, float) and math.isfinite(value)):
        return None if value is None else float(value)
    raise ValueError("duration or offset is not a number")


class FolderSource(_LocalSource):
    """Audio files at any depth, in the order of their paths; the id is the relative path.

    The transcript is in a .txt of the same name, or in a metadata.csv or metadata.jsonl, which
    describes files by ``file_name``, relative to itself, and goes before a .txt. Raises
    SourceError if the folder has no audio, or a metadata file lacks a column.
    """

    def __init__(self, name: str, spec: Spec) -> None:
        super().__init__(name, spec)
        path = self._path
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
        self.size = len(self._files)
        if not self._files:
            raise SourceError(f"The folder {path} has no audio files", setting="path")

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
        wanted = {"text_column": self._text, "id_column": self._id}
        for row in _metadata(file):
            if "file_name" not in row:
                columns = ", ".join(map(str, row))
                raise DataError(f"{file} needs a column 'file_name' of paths, but has {columns}.")
            check_columns(wanted, list(row), where=str(file))
            audio = (file.parent / str(row.pop("file_name"))).relative_to(self._path)
            transcript = row.pop(self._text)
            self._rows[audio] = {**row, "text": transcript}


def _metadata(file: Path) -> Iterator[dict[str, Any]]:
    """The metadata file's rows; a file that is not in its format is a DataError."""
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix == ".csv":
            yield from csv.DictReader(io.StringIO(text, newline=""))
        else:
            yield from (dict(json.loads(line)) for line in text.split("\n") if line.strip())
    except (UnicodeDecodeError, ValueError, TypeError, csv.Error) as error:
        raise DataError(
            f"{file} cannot be read as {file.suffix[1:]} ({error}): mend it."
        ) from error
