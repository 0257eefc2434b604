"""Parquet, arrow and WebDataset files as shards: on this machine, or wherever fsspec reaches."""

from __future__ import annotations

import glob
import os
import re
import tarfile
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from tiny_audio.audio.remote import (
    CORRUPT,
    UNREACHABLE,
    RetryPolicy,
    UnreadableError,
    file_system,
    first_line,
    is_http,
    is_remote,
    open_remote,
    plain_url,
)
from tiny_audio.data.webdataset import PROBLEM, tar_rows
from tiny_audio.errors import DataError

SUFFIXES = {
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "webdataset": (".tar", ".tar.gz", ".tgz"),
}
_LOOKED_AT = 10  # samples of a tar file that are looked at for their columns
_TRIED = 8  # shards that are tried before a source is said to be unreadable
_ROWS = 64  # of a table that are decoded together


class FileShards:
    """Files of one kind, each a shard; `names` are their paths or addresses, without secrets.

    Args:
        columns: role (audio, text, id, speaker) -> name of a column, None where there is none.
    """

    def __init__(
        self, kind: str, paths: list[str], columns: dict[str, str | None], policy: RetryPolicy
    ) -> None:
        self.kind, self.paths, self.columns = kind, paths, columns
        self.names = [plain_url(path) if is_remote(path) else path for path in paths]
        self.policy = policy

    def rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        with self._opened(shard, stopped) as file:
            if self.kind == "webdataset":
                yield from tar_rows(file, self.names[shard], self.columns, start)
                return
            used = list(dict.fromkeys(filter(None, self.columns.values())))
            for row in _table_rows(file, self.kind, used, start):
                yield self._with_audio(row, shard)

    def retries(self, shard: int, reason: str) -> int:
        """What arrives damaged over the network may be a proxy's answer; the rest was retried."""
        return int(reason == CORRUPT and is_remote(self.paths[shard]))

    def found_columns(self, key: str) -> list[str]:
        """Names of the columns, of the first shard that can be read.

        Raises DataError if none of the first few can be.
        """
        problem = ""
        for shard in range(min(_TRIED, len(self.paths))):
            found: dict[str, None] = {}
            try:
                with self._opened(shard, Event()) as file:
                    if self.kind != "webdataset":
                        return _table(file, self.kind)[1]
                    rows = tar_rows(file, self.names[shard], self.columns, 0)
                    for row in islice((row for row in rows if PROBLEM not in row), _LOOKED_AT):
                        found |= {name: None for name, value in row.items() if value is not None}
            except UnreadableError as error:
                problem = problem or f"{self.names[shard]}: {error}"
            if found or not problem:
                return list(found)
        raise DataError(f"{key} cannot be read, such as {problem}. Look at {key}.path.")

    def size(self) -> int | None:
        """Rows altogether, where that is cheap to know: parquet on this machine."""
        if self.kind != "parquet" or any(map(is_remote, self.paths)):
            return None
        import pyarrow.parquet as pq

        try:
            return sum(int(pq.read_metadata(path).num_rows) for path in self.paths)
        except _damage_errors():
            return None

    @contextmanager
    def _opened(self, shard: int, stopped: Event) -> Iterator[BinaryIO]:
        path = self.paths[shard]
        try:
            remote = is_remote(path)
            with open_remote(path, self.policy, stopped) if remote else open(path, "rb") as file:
                yield file
        except _damage_errors() as error:
            away = isinstance(error, OSError) and error.errno is not None  # pyarrow's have none
            raise UnreadableError(first_line(error), UNREACHABLE if away else CORRUPT) from error

    def _with_audio(self, row: dict[str, Any], shard: int) -> dict[str, Any]:
        """The row with its audio as bytes, or as a path that is relative to the shard no more."""
        name, shard_path = str(self.columns["audio"]), self.paths[shard]
        value = row[name]
        if isinstance(value, bytes):
            value = {"bytes": value, "path": None}
        elif isinstance(value, str):
            value = {"bytes": None, "path": value}
        path = value and value.get("path")
        if path and value.get("bytes") is None and not is_remote(path):
            if is_http(shard_path):
                path = urllib.parse.urljoin(shard_path, path)
            elif is_remote(shard_path):
                path = f"{shard_path.rpartition('/')[0]}/{path}"
            else:
                path = str(Path(shard_path).parent / path)
            value = {"bytes": None, "path": path}
        return {**row, name: value}


def _damage_errors() -> tuple[type[Exception], ...]:
    """What opening or reading a file raises that is damaged, or away."""
    import pyarrow as pa

    own = (OSError, ValueError, EOFError, OverflowError, tarfile.TarError, zlib.error)
    return (*own, pa.ArrowException)


def _table(file: BinaryIO, kind: str) -> tuple[Any, list[str]]:
    """A reader of parquet, or of arrow's file or stream format, and its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        parquet = pq.ParquetFile(file, pre_buffer=False)
        return parquet, list(parquet.schema_arrow.names)
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
    return reader, list(reader.schema.names)


def _table_rows(
    file: BinaryIO, kind: str, columns: list[str], start: int
) -> Iterator[dict[str, Any]]:
    """Rows from `start` on; parquet is not read before the row group that holds it."""
    table, found = _table(file, kind)
    if missing := [name for name in columns if name not in found]:
        raise UnreadableError(f"no column {missing[0]!r}, but {', '.join(found)}", CORRUPT)
    if kind == "parquet":
        first, count = 0, table.num_row_groups
        while first < count and start >= table.metadata.row_group(first).num_rows:
            start -= table.metadata.row_group(first).num_rows
            first += 1
        batches = table.iter_batches(_ROWS, row_groups=list(range(first, count)), columns=columns)
    elif hasattr(table, "num_record_batches"):
        batches = map(table.get_batch, range(table.num_record_batches))
    else:
        batches = table
    for batch in batches:
        for offset in range(start, len(batch), _ROWS):
            yield from batch.select(columns).slice(offset, _ROWS).to_pylist()
        start = max(0, start - len(batch))


def find_shards(path: str, kind: str, key: str) -> list[str]:
    """The files that a path stands for, in a fixed order; raises DataError where there are none.

    Args:
        path: a file, a folder, a pattern with ``*``, an address; ``{0000..0123}`` and ``{a,b}``
            are written out. A ``.txt`` file lists such, one on a line.
    """
    if path.endswith(".txt"):
        try:
            lines = Path(path).expanduser().read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The list {path} cannot be read ({error}): set {key}.path.") from error
        listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    else:
        listed = [path]
    found: list[str] = []
    for item in chain.from_iterable(map(_braces, listed)):
        if is_http(item) and "*" in item:
            raise DataError(f"{item}: an address takes no *; write {{0000..0123}} in {key}.path.")
        files = [item] if is_http(item) else _matches(item, SUFFIXES[kind], key)
        if not files:
            raise DataError(f"{item} has no {' or '.join(SUFFIXES[kind])} file: set {key}.path.")
        found += files
    if not found:
        raise DataError(f"{path} lists no files: set {key}.path.")
    return found


def _matches(path: str, endings: tuple[str, ...], key: str) -> list[str]:
    """The file, the files in the folder, or those of the pattern, sorted."""
    if is_remote(path):
        try:
            fs, inner = file_system(path)
            if glob.has_magic(path):
                names = fs.glob(inner)
            elif path.endswith(endings):
                return [path]  # reading it tells whether it is there
            else:
                names = [name for name in fs.find(inner) if name.endswith(endings)]
            return [str(fs.unstrip_protocol(name)) for name in sorted(names)]
        except Exception as error:  # the file systems' errors share no base class
            what = f"{path} cannot be listed: {first_line(error)}"
            raise DataError(f"{what}. Look at {key}.path.") from error
    local = os.path.expanduser(path)
    if os.path.isdir(local):
        inside = (file for file in Path(local).rglob("*") if file.name.endswith(endings))
        return sorted(str(file) for file in inside if file.is_file())
    return sorted(glob.glob(local, recursive=True)) or [local] * os.path.exists(local)


def _braces(pattern: str) -> list[str]:
    """Write out {a,b} and {000..012} as a shell does, inner ones before those around them."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    choices = found[1].split(",")
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        first, last = map(int, numbers.groups())
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        step = 1 if first <= last else -1
        choices = [f"{n:0{width}d}" for n in range(first, last + step, step)]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return list(dict.fromkeys(p for choice in choices for p in _braces(head + choice + tail)))
