"""Parquet, arrow and WebDataset files as shards: on this machine, or behind http(s) addresses."""

from __future__ import annotations

import glob
import os
import re
import tarfile
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from tiny_audio.data.remote import (
    CORRUPT,
    UNREACHABLE,
    Patience,
    ShardError,
    open_url,
    plain_url,
)
from tiny_audio.data.tables import arrow_error, table_columns, table_length, table_rows
from tiny_audio.data.webdataset import PROBLEM, tar_rows
from tiny_audio.errors import DataError

SUFFIXES = {
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "webdataset": (".tar", ".tar.gz", ".tgz"),
}
_LOOKED_AT = 10  # samples of a tar file that are looked at for their columns
_TRIED = 8  # shards that are tried before a source is said to be unreadable
_SPREAD = re.compile(r"(\d+)\.\.(\d+)")


class FileShards:
    """Files of one kind, each a shard.

    Args:
        columns: role (audio, text, id, speaker) -> name of a column, None where there is none.

    Attributes:
        places: path or address of each.
        names: the same, fit for messages.
    """

    def __init__(
        self, kind: str, places: list[str], columns: dict[str, str | None], patience: Patience
    ) -> None:
        self.kind, self.places = kind, places
        self.names = [plain_url(place) if is_url(place) else place for place in places]
        self._columns, self._patience = columns, patience

    def rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        """Rows of a shard from `start` on; raises ShardError where that cannot be.

        What arrives damaged over the network is asked for once more: it may be a proxy's answer.
        """
        again = is_url(self.places[shard])
        while True:
            try:
                for row in self._rows(shard, start, stopped):
                    yield row
                    start += 1
                return
            except ShardError as error:
                if error.reason != CORRUPT or not again or stopped.is_set():
                    raise
                again = False
                self._patience.wait(1, stopped)

    def _rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        used = list(dict.fromkeys(filter(None, self._columns.values())))
        with self._opened(shard, stopped) as file:
            if self.kind == "webdataset":
                yield from tar_rows(file, self.names[shard], self._columns, start)
            else:
                for row in table_rows(file, self.kind, used, start):
                    yield self._placed(row, shard)

    def columns(self, key: str) -> list[str]:
        """Names of the columns: of the first shard that can be read.

        Raises DataError if none of the first few can be.
        """
        problem = ""
        for shard in range(min(_TRIED, len(self.places))):
            found: dict[str, None] = {}
            try:
                with self._opened(shard, Event()) as file:
                    if self.kind != "webdataset":
                        return table_columns(file, self.kind)
                    rows = tar_rows(file, self.names[shard], self._columns, 0)
                    for row in islice((row for row in rows if PROBLEM not in row), _LOOKED_AT):
                        found |= {name: None for name, value in row.items() if value is not None}
            except ShardError as error:
                problem = problem or f"{self.names[shard]}: {error}"
            if found or not problem:
                return list(found)
        raise DataError(f"{key} cannot be read, such as {problem}. Look at {key}.path.")

    def size(self) -> int | None:
        """Rows altogether, where that is cheap to know: parquet on this machine."""
        if self.kind != "parquet" or any(map(is_url, self.places)):
            return None
        try:
            return sum(table_length(Path(place)) for place in self.places)
        except damage_errors():
            return None

    @contextmanager
    def _opened(self, shard: int, stopped: Event) -> Iterator[BinaryIO]:
        try:
            with self._file(shard, stopped) as file:
                yield file
        except ShardError:
            raise
        except damage_errors() as error:
            lost = isinstance(error, OSError) and error.errno is not None  # pyarrow's have none
            line = str(error).strip().splitlines() or [type(error).__name__]
            raise ShardError(line[0], UNREACHABLE if lost else CORRUPT) from error

    def _file(self, shard: int, stopped: Event) -> BinaryIO:
        place = self.places[shard]
        return open_url(place, self._patience, stopped) if is_url(place) else Path(place).open("rb")

    def _placed(self, row: dict[str, Any], shard: int) -> dict[str, Any]:
        """The row with its audio as bytes, or as a path that is relative to the shard no more."""
        name, place = str(self._columns["audio"]), self.places[shard]
        value = row[name]
        if isinstance(value, bytes):
            value = {"bytes": value, "path": None}
        elif isinstance(value, str):
            value = {"bytes": None, "path": value}
        path = value and value.get("path")
        if path and value.get("bytes") is None and not is_url(path):
            near = Path(place).parent / path
            value["path"] = urllib.parse.urljoin(place, path) if is_url(place) else str(near)
        row[name] = value
        return row


def damage_errors() -> tuple[type[Exception], ...]:
    """What opening or reading a file raises that is damaged, or away."""
    own = (OSError, ValueError, EOFError, OverflowError, tarfile.TarError, zlib.error)
    return (*own, arrow_error())


def find_shards(path: str, kind: str, key: str) -> list[str]:
    """The files that a path stands for, in a fixed order.

    Args:
        path: a file, a folder, a pattern with ``*``, an address; ``{0000..0123}`` and ``{a,b}``
            are written out. A ``.txt`` file lists such, one on a line.

    Raises DataError where there is nothing.
    """
    if path.endswith(".txt"):
        try:
            lines = Path(path).expanduser().read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The list {path} cannot be read ({error}): set {key}.path.") from error
        listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    else:
        listed = [path]
    found = [place for one in listed for item in _braces(one) for place in _local(item, kind, key)]
    if not found:
        raise DataError(f"{path} lists no files: set {key}.path.")
    return found


def is_url(place: str) -> bool:
    """Whether it is an http(s) address."""
    return place.lower().startswith(("http://", "https://"))


def _local(place: str, kind: str, key: str) -> list[str]:
    endings = SUFFIXES[kind]
    if is_url(place):
        if "*" in place:
            raise DataError(f"{place}: an address takes no *; write {{0000..0123}} in {key}.path.")
        return [place]
    path = Path(place).expanduser()
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.name.endswith(endings))
        found = sorted(str(file) for file in inside if file.is_file())
    elif glob.has_magic(place):
        found = sorted(glob.glob(str(path), recursive=True))
    else:
        found = [str(path)] if os.path.exists(path) else []
    if not found:
        raise DataError(f"{place} has no {' or '.join(endings)} file: set {key}.path.")
    return found


def _braces(pattern: str) -> Iterator[str]:
    """Write out {a,b} and {000..012}, the way a shell does."""
    head, brace, rest = pattern.partition("{")
    if not brace:
        yield pattern
        return
    depth, commas, end = 1, [-1], 0
    while end < len(rest) and depth:
        depth += {"{": 1, "}": -1}.get(rest[end], 0)
        if depth == 1 and rest[end] == ",":
            commas.append(end)
        end += 1
    if depth:
        yield pattern  # never closed
        return
    inside = rest[: end - 1]
    bounds = [*commas, len(inside)]
    choices = [inside[a + 1 : b] for a, b in pairwise(bounds)]
    if spread := _SPREAD.fullmatch(inside):
        first, last = spread.groups()
        width = len(first) if first.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
    for choice in choices:
        for one in _braces(choice):
            for tail in _braces(rest[end:]):
                yield head + one + tail
