"""Samples of WebDataset tar shards: neighbours in the archive whose names agree up to the dot.

``a/0001.flac`` and ``a/0001.txt`` are the sample ``a/0001``; a ``.json`` adds its fields.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import Any, BinaryIO

from tiny_audio.data.folder import AUDIO_SUFFIXES
from tiny_audio.data.remote import CORRUPT, ShardError

KEY, PROBLEM = "__key__", "__problem__"  # of a row: the sample's name; why it cannot be used
_TEXTS = ("txt", "transcript", "cls")  # where a transcript may be when text_column is `text`


def tar_rows(
    file: BinaryIO, name: str, columns: dict[str, str | None], start: int
) -> Iterator[dict[str, Any]]:
    """Samples from number `start` on, as rows of the wanted columns, KEY and maybe PROBLEM.

    Args:
        columns: role (audio, text, id, speaker) -> name of a column: an extension, or a field of
            the .json. The audio may be under any extension of audio.

    Raises ShardError for an archive that breaks off, and what tarfile raises for one that is none.
    """
    packed = name.endswith((".gz", ".tgz"))
    with tarfile.open(fileobj=file, mode="r:gz" if packed else "r:") as archive:
        members = groupby(_files(archive), key=lambda member: _split(member.name)[0])
        for number, (key, group) in enumerate(members):
            if number < start:
                for _ in group:  # heads only: bodies are leapt over
                    pass
                continue
            parts: dict[str, bytes] = {}
            twice = None
            for member in group:
                extension = _split(member.name)[1]
                twice = extension if extension in parts else twice
                body = archive.extractfile(member)
                parts[extension] = body.read() if body else b""
            yield _row(key, parts, twice, columns)


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Plain files in their order. A damaged head, which tarfile takes for the end, is an error."""
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined] # or every head is kept
        if member.isreg() and not _split(member.name)[0].rpartition("/")[2].startswith("."):
            yield member
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise ShardError(f"the archive breaks off at byte {archive.offset:,}", CORRUPT)


def _split(path: str) -> tuple[str, str]:
    """Name up to the first dot of its last part, and the extension, lower case."""
    folder, slash, name = path.removeprefix("./").rpartition("/")
    if name.startswith("."):
        return folder + slash + name, ""
    stem, _, extension = name.partition(".")
    return folder + slash + stem, extension.lower()


def _row(
    key: str, parts: dict[str, bytes], twice: str | None, columns: dict[str, str | None]
) -> dict[str, Any]:
    row: dict[str, Any] = {name: None for name in columns.values() if name}
    row[KEY] = key
    if twice is not None:
        return {**row, PROBLEM: f"two .{twice}"}
    try:
        fields = json.loads(parts.pop("json", b"{}"))
        if not isinstance(fields, dict):
            return {**row, PROBLEM: "its .json holds no object"}
        audio, text = str(columns["audio"]), str(columns["text"])
        sound = audio if audio in parts else next(filter(_is_audio, parts), None)
        for name in filter(None, columns.values()):
            if name in parts and name != sound:
                row[name] = parts[name].decode("utf-8-sig")
            elif name in fields:
                row[name] = fields[name]
        if text == "text" and row[text] is None:
            found = next((name for name in _TEXTS if name in parts), None)
            row[text] = parts[found].decode("utf-8-sig") if found else None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        return {**row, PROBLEM: str(error).splitlines()[0]}
    if sound is not None:
        row[audio] = {"bytes": parts[sound], "path": f"{key}.{sound}"}
    return row


def _is_audio(extension: str) -> bool:
    return "." + extension.rpartition(".")[2] in AUDIO_SUFFIXES
