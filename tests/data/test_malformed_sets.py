"""Manifests and folders in odd encodings and with odd values: used, rejected by reason, or refused
in one line."""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.data.helpers import noise, open_one
from tiny_audio.data.prepare import Preparer
from tiny_audio.data.records import Record, Reject, Utterance
from tiny_audio.errors import DataError
from tiny_audio.text.labels import LabelRules

PREPARE = Preparer(LabelRules(), min_seconds=0.2, max_seconds=30.0)
GOOD = {"audio_filepath": "a.wav", "text": "words"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", noise(2.0, 0), 16_000)
    return tmp_path


def results(**source: Any) -> list[Utterance | Reject]:
    items = open_one(**source).records()
    return [PREPARE(item) if isinstance(item, Record) else item for item in items]


def outcome(result: Utterance | Reject) -> str:
    return "used" if isinstance(result, Utterance) else result.reason


def outcomes(**source: Any) -> list[str]:
    """What becomes of each record: ``used`` or the reason, or of the whole: ``refused``."""
    try:
        return [outcome(result) for result in results(**source)]
    except DataError as error:
        return ["refused" if len(str(error).splitlines()) == 1 else "refused at length"]


def line(**values: Any) -> bytes:
    return json.dumps(GOOD | values).encode()


ROWS: dict[str, tuple[bytes, str]] = {
    "latin-1": ('{"audio_filepath": "a.wav", "text": "é"}'.encode("latin-1"), "bad_record"),
    "utf-16": (json.dumps(GOOD).encode("utf-16-le"), "bad_record"),
    "carriage return": (json.dumps(GOOD).encode() + b"\r", "used"),
    "cut": (json.dumps(GOOD).encode()[:20], "bad_record"),
    "two in a line": (json.dumps(GOOD).encode() * 2, "bad_record"),
    "nested deeply": (b"[" * 100_000, "bad_record"),
    "a number": (b"7", "bad_record"),
    "text is null": (line(text=None), "no_transcript"),
    "text is a list": (line(text=["a"]), "no_transcript"),
    "text is a number": (line(text=42), "used"),
    "text is a surrogate": (line(text="a \ud800 b"), "used"),
    "text is control characters": (line(text="\0\1\2\u200b"), "empty_label"),
    "text is a megabyte": (line(text="word " * 200_000), "used"),  # for TokenLimits to reject
    "path is empty": (line(audio_filepath=""), "bad_record"),
    "path has a zero byte": (line(audio_filepath="a\0.wav"), "bad_record"),
    "path is a surrogate": (line(audio_filepath="\ud800.wav"), "unreadable"),
    "path is a folder": (line(audio_filepath="."), "unreadable"),
    "path is far too long": (line(audio_filepath="x" * 9_000), "unreadable"),
    "path is an unknown address": (line(audio_filepath="nothing://x/y.wav"), "unreadable"),
    "duration is a text": (line(duration="2.0"), "bad_record"),
    "duration is not a number": (line(duration=float("nan")), "bad_record"),
    "duration is beyond any float": (line(duration=10**400), "bad_record"),
    "duration has too many digits": (line(duration=7).replace(b"7", b"7" * 9_000), "bad_record"),
    "duration is negative": (line(duration=-2.0), "too_short"),
    "duration is true": (line(duration=True), "bad_record"),
    "duration is huge": (line(duration=1e300), "too_long"),
    "offset is not a number": (line(offset=float("nan"), duration=1.0), "bad_record"),
    "offset is negative": (line(offset=-1.0, duration=1.0), "bad_record"),
    "offset is past the end": (line(offset=9.0, duration=1.0), "too_short"),
    "stretch runs past the end": (line(offset=1.0, duration=5.0), "used"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_one_odd_line_of_a_manifest(folder: Path, name: str):
    row, expected = ROWS[name]
    path = folder / "m.jsonl"
    path.write_bytes(b"\n".join([json.dumps(GOOD).encode(), b" ", row, b""]))
    first, odd = results(path=str(path))
    assert [outcome(first), outcome(odd)] == ["used", expected]
    assert expected != "bad_record" or odd.id == "m.jsonl:3"


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda rows: rows.encode("utf-8-sig"), ["used", "used"]),
        (lambda rows: rows.replace("\n", "\r\n").encode(), ["used", "used"]),
        (lambda rows: rows.replace("\n", "\n\n \r\n").encode(), ["used", "used"]),
        (lambda rows: rows.encode("utf-16"), ["refused"]),
        (lambda rows: rows.encode("utf-32"), ["refused"]),
        (lambda rows: b"", ["refused"]),
        (lambda rows: b"\n\n", ["refused"]),
        (lambda rows: bytes(5_000), ["refused"]),
        (lambda rows: b"audio,text\na.wav,words\n", ["refused"]),
        (lambda rows: random.Random(0).randbytes(4_000).replace(b"{", b""), ["refused"]),
    ],
)
def test_whole_manifests(folder: Path, write: Callable[[str], bytes], expected: list[str]):
    path = folder / "m.jsonl"
    path.write_bytes(write((json.dumps(GOOD) + "\n") * 2))
    assert outcomes(path=str(path)) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("words".encode("utf-8-sig"), "used"),
        (b"words\r\n", "used"),
        ("wörter".encode("latin-1"), "bad_record"),
        ("words".encode("utf-16"), "bad_record"),
        (b"", "empty_label"),
        (bytes(100), "empty_label"),
        (None, "no_transcript"),
    ],
)
def test_texts_beside_recordings(folder: Path, data: bytes | None, expected: str):
    if data is not None:
        (folder / "a.txt").write_bytes(data)
    assert outcomes(kind="folder", path=str(folder)) == [expected]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"file_name,text\na.wav,words\n", ["used"]),
        (b"file_name,text\r\na.wav,\"many,\r\nwords\"\r\n", ["used"]),
        (b"file_name,text\na.wav\n", ["no_transcript"]),
        (b"file_name,text\na.wav,words,more,still\n", ["used"]),
        (b"file_name,text\ngone.wav,words\n", ["no_transcript", "unreadable"]),
        ("file_name,text\na.wav,wört\n".encode("latin-1"), ["refused"]),
        ("file_name,text\na.wav,words\n".encode("utf-16"), ["refused"]),
        (b"name;text\na.wav;words\n", ["refused"]),
    ],
)  # fmt: skip
def test_tables_of_a_folder(folder: Path, data: bytes, expected: list[str]):
    (folder / "metadata.csv").write_bytes(data)
    assert outcomes(kind="folder", path=str(folder)) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_file_names_that_are_no_text(folder: Path):
    (folder / "a.wav").rename(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.wav"))
    (folder / os.fsdecode(b"\xff\xfe.txt")).write_text("words")
    assert outcomes(kind="folder", path=str(folder)) == ["used"]
