"""Samples of WebDataset tar shards: neighbours in the archive whose names agree up to the dot.

The reader of `datasets` would lose a whole shard for one broken .json, and take an archive that
breaks off for whole; hence this one.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import Any, BinaryIO

from tiny_audio.audio.remote import CORRUPT, UnreadableError
from tiny_audio.data.folder import AUDIO_SUFFIXES

KEY, PROBLEM = "__key__", "__problem__"  # of a row: the sample's name; why it cannot be used
_TEXTS = ("txt", "transcript", "cls")  # where a transcript may be when text_column is `text`


def tar_rows(
    file: BinaryIO, name: str, columns: dict[str, str | None], start: int
) -> Iterator[dict[str, Any]]:
    """Samples from number `start` on, as rows of the wanted columns, KEY and maybe PROBLEM.

    Columns (role -> name) are an extension or a field of the .json; audio has any extension of it.
    Raises UnreadableError for an archive that breaks off, and what tarfile raises for none.
    """
    packed = name.endswith((".gz", ".tgz"))
    with tarfile.open(fileobj=file, mode="r:gz" if packed else "r:") as archive:
        samples = groupby(_files(archive), key=lambda member: _split(member.name)[0])
        for number, (key, members) in enumerate(samples):
            if number < start:
                continue  # groupby reads their heads; bodies are leapt over
            row: dict[str, Any] = {column: None for column in columns.values() if column}
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
                row[PROBLEM] = str(error).splitlines()[0]
            yield row


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
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
    sound = audio if audio in parts else next(filter(_is_audio, parts), None)
    row: dict[str, Any] = {}
    for name in filter(None, columns.values()):
        if name in parts and name != sound:
            row[name] = parts[name].decode("utf-8-sig")
        elif name in fields:
            row[name] = fields[name]
    if text == "text" and row.get(text) is None:
        found = next((name for name in _TEXTS if name in parts), None)
        row[text] = parts[found].decode("utf-8-sig") if found else None
    if sound is not None:
        row[audio] = {"bytes": parts[sound], "path": f"{key}.{sound}"}
    return row


def _is_audio(extension: str) -> bool:
    return "." + extension.rpartition(".")[2] in AUDIO_SUFFIXES
