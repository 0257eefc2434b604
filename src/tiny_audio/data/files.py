"""Shards that are files of parquet or WebDataset, here or at an address.

A WebDataset sample is what neighbours in a tar archive hold whose names agree up to the dot. The
reader of `datasets` would lose a whole shard for one broken .json, and take an archive that breaks
off for whole; hence the one here.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from tiny_audio.audio import remote
from tiny_audio.audio.remote import CORRUPT, UNREACHABLE, RetryPolicy, UnreadableError, is_remote
from tiny_audio.data.local import AUDIO_SUFFIXES
from tiny_audio.errors import DataError, first_line

SUFFIXES = {"parquet": (".parquet",), "webdataset": (".tar", ".tar.gz", ".tgz")}
KEY, PROBLEM = "__key__", "__problem__"  # of a tar row: the sample's name; why it cannot be used
_TEXTS = ("txt", "transcript", "cls")  # where a transcript may be when text_column is `text`
_LOOKED_AT = 10  # samples of a tar file that are looked at for their columns
_TRIED = 8  # shards that are tried before a source is said to be unreadable
_ROWS = 64  # of a parquet file that are decoded together


class FileShards:
    """Files of one kind, each a shard; `names` are their paths or addresses, without secrets."""

    def __init__(
        self, kind: str, paths: list[str], columns: dict[str, str | None], policy: RetryPolicy
    ) -> None:
        self.kind, self.paths, self.policy = kind, paths, policy
        self.columns = columns  # role (audio, text, id, speaker) -> name, None where there is none
        self.names = [remote.plain_url(path) if is_remote(path) else path for path in paths]

    def rows(self, shard: int, start: int, stopped: Event) -> Iterator[dict[str, Any]]:
        """Rows from `start` on, by column; raises UnreadableError where it cannot be read."""
        with self._opened(shard, stopped) as file:
            if self.kind == "webdataset":
                yield from _tar_rows(file, self.names[shard], self.columns, start)
                return
            used = [*dict.fromkeys(filter(None, self.columns.values()))]
            yield from _parquet_rows(file, used, start)

    def retries(self, shard: int, reason: str) -> int:
        """RemoteFile has retried already, but damage may be a proxy's answer."""
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
                    if self.kind == "parquet":
                        return list(_parquet(file).schema_arrow.names)
                    rows = _tar_rows(file, self.names[shard], self.columns, 0)
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
        count = 0
        with suppress(UnreadableError):
            for shard in range(len(self.paths)):
                with self._opened(shard, Event()) as file:
                    count += _parquet(file).metadata.num_rows
            return count
        return None

    @contextmanager
    def _opened(self, shard: int, stopped: Event) -> Iterator[BinaryIO]:
        import pyarrow as pa

        broken = (OSError, ValueError, EOFError, OverflowError, tarfile.TarError, zlib.error)
        path = self.paths[shard]
        try:
            here = None if is_remote(path) else open(path, "rb")  # noqa: SIM115
            with here or remote.open_remote(path, self.policy, stopped) as file:
                yield file
        except (*broken, pa.ArrowException) as error:
            away = isinstance(error, OSError) and error.errno is not None  # pyarrow's have none
            raise UnreadableError(first_line(error), UNREACHABLE if away else CORRUPT) from error


def _parquet(file: BinaryIO) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, pre_buffer=False)


def _parquet_rows(file: BinaryIO, columns: list[str], start: int) -> Iterator[dict[str, Any]]:
    """Rows from `start` on; nothing is read before the row group that holds it."""
    table = _parquet(file)
    found = table.schema_arrow.names
    if missing := [name for name in columns if name not in found]:
        raise UnreadableError(f"no column {missing[0]!r}, but {', '.join(found)}", CORRUPT)
    first, count = 0, table.num_row_groups
    while first < count and start >= table.metadata.row_group(first).num_rows:
        start -= table.metadata.row_group(first).num_rows
        first += 1
    for batch in table.iter_batches(_ROWS, row_groups=list(range(first, count)), columns=columns):
        yield from batch.slice(start).to_pylist()
        start = max(0, start - len(batch))


def _tar_rows(
    file: BinaryIO, name: str, columns: dict[str, str | None], start: int
) -> Iterator[dict[str, Any]]:
    """Samples from number `start` on, as rows of the wanted columns, KEY and maybe PROBLEM.

    Columns (role -> name) are an extension or a field of the .json; audio has any extension of it.
    Raises UnreadableError for an archive that breaks off, and what tarfile raises for none.
    """
    packed = name.endswith((".gz", ".tgz"))
    with tarfile.open(fileobj=file, mode="r:gz" if packed else "r:") as archive:
        samples = groupby(_members(archive), key=lambda member: _split(member.name)[0])
        for key, members in islice(samples, start, None):  # bodies are leapt over
            row: dict[str, Any] = dict.fromkeys(filter(None, columns.values()))
            row[KEY] = key
            parts: dict[str, bytes] = {}
            for member in members:
                extension = _split(member.name)[1]
                if extension in parts:
                    row[PROBLEM] = f"two .{extension}"
                body = archive.extractfile(member)
                parts[extension] = body.read() if body else b""
            try:
                row |= _values(key, parts, columns)
            except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
                row[PROBLEM] = first_line(error)
            yield row


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Plain files in their order. A damaged head, which tarfile takes for the end, is an error."""
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined] # or every head is kept
        if member.isreg() and not _split(member.name)[0].rpartition("/")[2].startswith("."):
            yield member
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise UnreadableError(f"the archive breaks off at byte {archive.offset:,}", CORRUPT)


def _split(path: str) -> tuple[str, str]:
    """Name up to the first dot of its last part, and the extension, lower case."""
    folder, slash, name = path.removeprefix("./").rpartition("/")
    stem, _, extension = (name, "", "") if name.startswith(".") else name.partition(".")
    return folder + slash + stem, extension.lower()


def _values(key: str, parts: dict[str, bytes], columns: dict[str, str | None]) -> dict[str, Any]:
    """The wanted columns that a sample's files hold; raises ValueError for unreadable ones."""
    fields = json.loads(parts.pop("json", b"{}"))
    if not isinstance(fields, dict):
        raise ValueError("its .json holds no object")
    audio, text = str(columns["audio"]), str(columns["text"])
    sounds = (part for part in parts if "." + part.rpartition(".")[2] in AUDIO_SUFFIXES)
    sound = audio if audio in parts else next(sounds, None)
    texts = {name: data for name, data in parts.items() if name != sound}
    row = {
        name: texts[name].decode("utf-8-sig") if name in texts else fields[name]
        for name in filter(None, columns.values())
        if name in texts or name in fields
    }
    if text == "text" and row.get(text) is None:
        found = next((name for name in _TEXTS if name in parts), None)
        row[text] = parts[found].decode("utf-8-sig") if found else None
    if sound is not None:
        row[audio] = {"bytes": parts[sound], "path": f"{key}.{sound}"}
    return row


def find_shards(path: str, kind: str, key: str) -> list[str]:
    """The files of a path, folder, pattern or address, in a fixed order; DataError for none.

    ``{0000..0123}`` and ``{a,b}`` are written out.
    """
    found: list[str] = []
    for item in _braces(path):
        http = remote.is_http(item)
        if http and "*" in item:
            raise DataError(f"{item}: an address takes no *; write {{0000..0123}} in {key}.path.")
        files = [item] if http else _matches(item, SUFFIXES[kind], key)
        if not files:
            raise DataError(f"{item} has no {' or '.join(SUFFIXES[kind])} file: set {key}.path.")
        found += files
    return found


def _matches(path: str, endings: tuple[str, ...], key: str) -> list[str]:
    """The file, the files in the folder, or those of the pattern, sorted."""
    if is_remote(path):
        try:
            fs, inner = remote.file_system(path)
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
