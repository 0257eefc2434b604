"""One row of a shard to one record, or to the reject that says what it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tiny_audio.data.hub_open import audio_of
from tiny_audio.data.records import Record, text_of
from tiny_audio.data.rejects import Reject
from tiny_audio.data.webdataset import KEY, PROBLEM


def row_item(
    row: Mapping[str, Any], columns: Mapping[str, str | None], source: str, shard: str
) -> Record | Reject:
    """The record of a row, its audio undecoded.

    Args:
        columns: role (audio, text, id, speaker) -> name of a column, None where there is none.
        source: name of the data source.
        shard: name of the shard.
    """
    audio, path = audio_of(row[str(columns["audio"])])
    record_id: str | None
    if columns["id"]:
        record_id = text_of(row[columns["id"]])
    elif KEY in row:
        record_id = f"{PurePosixPath(shard).name}/{row[KEY]}"
    elif isinstance(audio, bytes):  # paths of embedded audio are often all alike
        record_id = f"{path}#{hashlib.blake2b(audio, digest_size=6).hexdigest()}"
    else:
        record_id = path
    if PROBLEM in row:
        return Reject(record_id or row[KEY], source, "bad_record", row[PROBLEM])
    text = text_of(row[str(columns["text"])])
    if record_id is None or audio is None:
        what = "no audio" if audio is None else f"no id in {columns['id']!r}"
        return Reject(record_id or path or "?", source, "bad_record", what)
    if text is None:
        return Reject(record_id, source, "no_transcript", f"no text in {columns['text']!r}")
    speaker = text_of(row[str(columns["speaker"])]) if columns["speaker"] else None
    return Record(record_id, source, audio, text, speaker)
