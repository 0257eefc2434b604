"""Manifests of NeMo's form: ``{"audio_filepath": "a.flac", "text": "...", "duration": 3.2}``.

One JSON object a line; ``offset`` with ``duration`` names a stretch of a longer file.
"""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path
from typing import Any

from tiny_audio.audio.remote import is_remote
from tiny_audio.data.records import IndexedSource, Record, Spec, text_of
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import SourceError

# Not UTF-8 or no JSON; nested too deeply; a number beyond any float.
_BAD_LINE = (ValueError, RecursionError, OverflowError)


class ManifestSource(IndexedSource):
    """JSON lines; paths are relative to the manifest, ids are the paths unless there is a column.

    Only positions are kept in memory, 16 bytes a line. Raises SourceError if the file cannot be
    read or its first record lacks a column.
    """

    def __init__(self, name: str, spec: Spec) -> None:
        super().__init__(name, spec["weight"], spec["max_samples"])
        self._path = path = Path(spec["path"]).expanduser()
        self._audio, self._text = spec["audio_column"], spec["text_column"]
        self._id, self._speaker = spec["id_column"], spec["speaker_column"]
        self._duration = spec["options"].get("duration_column", "duration")
        try:
            self._starts, self._numbers = _lines(path)
        except OSError as error:
            raise SourceError(
                f"The manifest {path} cannot be read ({error.strerror})", setting="path"
            ) from error
        if not len(self._starts):
            raise SourceError(f"The manifest {path} is empty", setting="path")
        self._check_columns()

    def size(self) -> int:
        return len(self._starts)

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
        record_id = audio if self._id is None else text_of(row.get(self._id))
        if record_id is None:
            raise ValueError(f"no id in the column {self._id!r}")
        if text is None:
            return Reject(record_id, self.name, "no_transcript", f"no text in {self._text!r}")
        seconds, offset = _number(row.get(self._duration)), _number(row.get("offset"))
        if offset is not None and offset < 0:
            raise ValueError(f"the offset {offset:g} is before the beginning")
        used = (self._audio, self._text, self._id, self._speaker, self._duration, "offset")
        return Record(
            id=record_id if offset is None else f"{record_id}@{offset:g}",
            source=self.name,
            audio=audio if is_remote(audio) else self._path.parent / audio,
            text=text,
            speaker=text_of(row.get(self._speaker)) if self._speaker else None,
            seconds=seconds,
            offset=offset,
            extra={k: v for k, v in row.items() if k not in used},
        )

    def _check_columns(self) -> None:
        """The first record that is JSON at all must have every column that was asked for."""
        wanted = {"audio_column": self._audio, "text_column": self._text, "id_column": self._id}
        for index in range(min(self.size(), 100)):
            try:
                row = self._row(index)
            except _BAD_LINE as error:
                failure = error
                continue
            check_columns(wanted, list(row), where=f"The manifest {self._path}")
            return
        what = f"{self._path} is no manifest of one JSON object a line ({failure})"
        raise SourceError(what, setting="path") from failure


def check_columns(wanted: dict[str, str | None], found: list[str], *, where: str) -> None:
    """Raise SourceError for a wanted column (setting -> column) that is not among those found."""
    for setting, column in wanted.items():
        if column is not None and column not in found:
            columns = ", ".join(map(str, found)) or "none"
            raise SourceError(f"{where} has no column {column!r}, but {columns}", setting=setting)


def _number(value: object) -> float | None:
    """A finite number, which JSON in Python need not be."""
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError("duration or offset is not a number")
    return float(value)  # type: ignore[arg-type]


def _lines(path: Path) -> tuple[array[int], array[int]]:
    """Byte offset and line number (from 1) of every line that is not blank."""
    starts, numbers = array("q"), array("q")
    position = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                starts.append(position)
                numbers.append(number)
            position += len(line)
    return starts, numbers
