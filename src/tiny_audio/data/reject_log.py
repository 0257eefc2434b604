"""rejects.jsonl: every training sample that was rejected, with its reason, one JSON object a line.

Written by the process that trains, never by its workers, as soon as the record is counted, and
only on its source's first pass: so each record is there once. With several processes each has a
file of its own, as each has a share of the records that no other has: rejects.jsonl and
rejects-1.jsonl, rejects-2.jsonl, …
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tiny_audio.data.utterance import Reject
from tiny_audio.errors import DataError


class RejectLog:
    """The file of one process; no file without a folder.

    Args:
        folder: of the run; None writes nothing.
        rank: number of the process.
    """

    def __init__(self, folder: Path | None = None, rank: int = 0) -> None:
        self.path = None if folder is None else folder / file_name(rank)
        self._rank = rank

    def continue_from(self, folder: Path) -> None:
        """Take over what another run's folder has, for a run that goes on from there."""
        other = folder / file_name(self._rank)
        if self.path is not None and other.is_file() and other.resolve() != self.path.resolve():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(other, self.path)

    def keep(self, count: int) -> None:
        """Forget all but the first `count` rejects: the others will be met again."""
        if self.path is None or not self.path.exists():
            return
        try:
            with self.path.open("r+b") as file:
                file.truncate(_end_of_line(file, count))
        except OSError as error:
            raise self._refused(error) from error

    def add(self, reject: Reject) -> None:
        """Append one, at once and whole, so that a kill loses none. Raises DataError."""
        if self.path is None:
            return
        line = json.dumps(asdict(reject), ensure_ascii=False).encode("utf-8", "backslashreplace")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(line + b"\n")
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> DataError:
        return DataError(f"{self.path}: cannot be written ({error.strerror}); free some space")


def file_name(rank: int) -> str:
    """The name of a process's file in the run's folder."""
    return "rejects.jsonl" if rank == 0 else f"rejects-{rank}.jsonl"


def _end_of_line(file: BinaryIO, count: int) -> int:
    """The byte after line number `count` (from 1), or after the last whole line before it."""
    end = 0
    for line in islice(file, count):
        end += len(line) if line.endswith(b"\n") else 0
    return end
