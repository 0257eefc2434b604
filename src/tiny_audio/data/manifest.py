"""Manifests: one JSON object a line, with the path of the audio and its transcript.

The form is NeMo's: ``{"audio_filepath": "a.flac", "text": "...", "duration": 3.2}``, where
``offset`` with ``duration`` names a stretch of a longer file. Only the positions of the lines are
kept in memory, 16 bytes a line, so that a manifest may have tens of millions of them.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_audio.data.records import IndexedSource, Record, Spec, text_of
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import SourceError

_CHUNK = 1 << 24
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_BOM = b"\xef\xbb\xbf"


class ManifestSource(IndexedSource):
    """JSON lines; paths are relative to the manifest.

    Args:
        spec: fields of ``SourceConfig``; of the columns id (default: the path), speaker and
            duration need not be there.

    Raises SourceError if the file cannot be read or its first record lacks a column.
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
        row = self._row(index)
        if isinstance(row, str):
            return self._bad(index, row)
        audio, text = row.get(self._audio), text_of(row.get(self._text))
        if not isinstance(audio, str) or not audio or "\0" in audio:
            return self._bad(index, f"no path in the column {self._audio!r}")
        record_id = audio if self._id is None else text_of(row.get(self._id))
        if record_id is None:
            return self._bad(index, f"no id in the column {self._id!r}")
        if text is None:
            return Reject(record_id, self.name, "no_transcript", f"no text in {self._text!r}")
        seconds, offset = row.get(self._duration), row.get("offset")
        if not all(value is None or _is_number(value) for value in (seconds, offset)):
            return self._bad(index, "duration or offset is not a number")
        if offset is not None and offset < 0:
            return self._bad(index, f"the offset {offset:g} is before the beginning")
        used = (self._audio, self._text, self._id, self._speaker, self._duration, "offset")
        return Record(
            id=record_id if offset is None else f"{record_id}@{offset:g}",
            source=self.name,
            audio=audio if _URL.match(audio) else self._path.parent / audio,
            text=text,
            speaker=text_of(row.get(self._speaker)) if self._speaker else None,
            seconds=None if seconds is None else float(seconds),
            offset=None if offset is None else float(offset),
            extra={k: v for k, v in row.items() if k not in used},
        )

    def _row(self, index: int) -> dict[str, Any] | str:
        """The line's JSON object, or what is wrong with it."""
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline()
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
            return f"not a line of JSON ({error})"
        return row if isinstance(row, dict) else "not a JSON object"

    def _bad(self, index: int, what: str) -> Reject:
        line = f"{self._path.name}:{self._numbers[index]}"
        return Reject(line, self.name, "bad_record", what)

    def _check_columns(self) -> None:
        """The first record that is JSON at all must have every column that was asked for."""
        for index in range(min(self.size(), 100)):
            row = self._row(index)
            if isinstance(row, dict):
                break
        if isinstance(row, str):
            raise SourceError(
                f"{self._path} is no manifest of one JSON object a line, its first lines are {row}",
                setting="path",
            )
        wanted = {"audio_column": self._audio, "text_column": self._text, "id_column": self._id}
        check_columns(wanted, list(row), where=f"The manifest {self._path}")


def check_columns(wanted: dict[str, str | None], found: list[str], *, where: str) -> None:
    """Raise SourceError for a wanted column that is not among those found.

    Args:
        wanted: setting -> column; None asks for nothing.
        where: begins the message.
    """
    for setting, column in wanted.items():
        if column is not None and column not in found:
            columns = ", ".join(map(str, found)) or "none"
            raise SourceError(f"{where} has no column {column!r}, but {columns}", setting=setting)


def _is_number(value: object) -> bool:
    """Whether it is a finite number, which JSON in Python need not be."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond any float
        return False


def _lines(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Byte offset and line number (from 1) of every line that is not blank."""
    ends: list[npt.NDArray[np.int64]] = []
    done = 0
    with path.open("rb") as file:
        first = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(0)
        while chunk := file.read(_CHUNK):
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + done)
            done += len(chunk)
        stops = np.concatenate([*ends, np.array([done], dtype=np.int64)])
        starts = np.concatenate([np.array([first], dtype=np.int64), stops[:-1] + 1])
        lengths = stops - starts
        filled = lengths > 0
        for short in np.flatnonzero((lengths > 0) & (lengths <= 2)):  # "\r" and the like
            file.seek(starts[short])
            filled[short] = bool(file.read(lengths[short]).strip())
    return starts[filled], np.flatnonzero(filled) + 1
