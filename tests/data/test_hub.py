"""Streamed datasets, on parquet files of this machine: the same code path as the hub's."""

from __future__ import annotations

import json
from itertools import islice, takewhile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny_audio.data.shards as shards
from tests.data.helpers import clip, open_one
from tiny_audio.audio.io import load_audio
from tiny_audio.data.records import Record, Source
from tiny_audio.data.rejects import Reject
from tiny_audio.data.shards import audio_of
from tiny_audio.data.sources import hold_out
from tiny_audio.errors import AudioError, DataError

ROWS = 60


def write_parquet(folder: Path, files: int, rows: int = ROWS) -> Path:
    """`rows` utterances over `files` files, as Hugging Face writes audio datasets."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        mine = range(number * rows // files, (number + 1) * rows // files)
        table = pa.table(
            {
                "audio": [{"bytes": clip(0.3 + n / 100, n), "path": "audio.flac"} for n in mine],
                "text": [f"word {n}" for n in mine],
                "speaker_id": list(mine),
                "useless": [[1.0, 2.0]] * len(mine),
            }
        )
        features = {"audio": {"_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"}}
        features["speaker_id"] = {"dtype": "int64", "_type": "Value"}
        number_type = {"dtype": "float64", "_type": "Value"}
        features["useless"] = {"feature": number_type, "_type": "List"}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        name = f"train-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), folder / name, row_group_size=7)
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("parquet"), 3)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK", 8)


def test_rows_become_records_with_undecoded_audio(parquet):
    source = open_one(kind="hub", path=str(parquet), speaker_column="speaker_id")
    rows = list(source.records())
    assert [row.text for row in rows] == [f"word {n}" for n in range(ROWS)]
    first = rows[5]
    assert isinstance(first, Record)
    assert first.audio == clip(0.35, 5)
    assert first.speaker == "5"
    assert len({row.id for row in rows}) == ROWS
    assert [row.id for row in source.records(start=50)] == [row.id for row in rows[50:]]
    one = open_one(kind="hub", path=str(parquet / "train-00001-of-00003.parquet"))
    assert [row.text for row in one.records()] == [f"word {n}" for n in range(20, 40)]
    few = open_one(kind="hub", path=str(parquet), max_samples=7)
    assert [row.id for row in few.records()] == [row.id for row in rows[:7]]


def test_what_cannot_be_opened_says_so_in_one_line(parquet, tmp_path):
    with pytest.raises(
        DataError, match=r"split dev\) cannot be opened: .*data\.train\.main\.split"
    ):
        open_one(kind="hub", path=str(parquet), split="dev")
    (tmp_path / "x.zip").touch()
    with pytest.raises(DataError, match=r"x\.zip is no \.parquet"):
        open_one(kind="hub", path=str(tmp_path / "x.zip"))
    with pytest.raises(DataError, match=r"holds .* no audio: set data\.train\.main\.audio"):
        open_one(kind="hub", path=str(parquet), audio_column="useless")


def test_each_pass_is_whole_and_in_another_order(parquet):
    source = open_one(kind="hub", path=str(parquet))
    drawn = list(islice(source.draws(1, 0, 1, None), 2 * ROWS))
    passes = [[d.item.id for d in drawn[:ROWS]], [d.item.id for d in drawn[ROWS:]]]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(row.id for row in source.records())
    assert passes[0] != passes[1]
    assert [d.epoch for d in drawn] == [0] * ROWS + [1] * ROWS
    files = {int(d.item.text.split()[1]) // 20: None for d in drawn[:ROWS]}
    others = {
        int(d.item.text.split()[1]) // 20: None for d in islice(source.draws(2, 0, 1, None), 60)
    }
    assert list(files) != list(others)  # the order of the files depends on the seed


def test_a_cursor_goes_on_at_the_next_record(parquet):
    drawn = list(islice(open_one(kind="hub", path=str(parquet)).draws(1, 0, 1, None), 90))
    again = open_one(kind="hub", path=str(parquet)).draws(1, 0, 1, drawn[20].cursor)
    assert [d.item.id for d in islice(again, 60)] == [d.item.id for d in drawn[21:81]]


def first_pass(source: Source, rank: int, world_size: int) -> list[str]:
    draws = source.draws(1, rank, world_size, None)
    return [draw.item.id for draw in takewhile(lambda draw: draw.epoch == 0, draws)]


def test_the_held_out_part_is_never_drawn(tmp_path):
    source = open_one(kind="hub", path=str(write_parquet(tmp_path, 2, 200)))
    (trained,), (held,) = hold_out([source], 3)
    held_ids = {row.id for row in held.records()}
    assert len(held_ids) == 3
    drawn = first_pass(trained, 0, 1)
    assert not held_ids.intersection(drawn)
    assert len(drawn) > 180


def test_rows_that_lack_something_are_rejects(tmp_path):
    sound = clip(0.5, 1)
    audio = pa.array([sound, None, sound], type=pa.binary())
    table = pa.table({"audio": audio, "text": ["fine", "no sound", None]})
    pq.write_table(table, tmp_path / "x.parquet")
    fine, silent, mute = open_one(kind="hub", path=str(tmp_path / "x.parquet")).records()
    assert fine.audio == sound
    assert (silent.reason, mute.reason) == ("bad_record", "no_transcript")


def test_audio_by_path_or_address():
    assert audio_of({"bytes": None, "path": "/a/b.flac"}) == (Path("/a/b.flac"), "/a/b.flac")
    remote, _ = audio_of({"bytes": None, "path": "memory://a/b.flac"})
    with pytest.raises(AudioError, match=r"memory://a/b\.flac cannot be downloaded") as error:
        load_audio(remote)
    assert error.value.reason == "unreadable"
    fsspec.filesystem("memory").pipe("/a/c.flac", clip(0.5, 1))
    assert len(load_audio("memory://a/c.flac")) == 8_000
    assert audio_of({"bytes": None, "path": None}) == (None, "")


def test_a_file_that_goes_away_or_is_damaged_is_left_out(tmp_path, caplog):
    folder = write_parquet(tmp_path, 4)
    quick = {"retries": 1, "backoff": 0.01}
    source = open_one(kind="hub", path=str(folder), options=quick)
    files = sorted(folder.iterdir())
    files[1].unlink()
    files[2].write_bytes(b"garbage" * 2_000)
    drawn = [d.item for d in islice(source.draws(1, 0, 1, None), 80) if d.epoch == 0]
    lost = [item for item in drawn if isinstance(item, Reject)]
    assert sorted(item.reason for item in lost) == ["shard_corrupt", "shard_unreachable"]
    assert {item.id for item in lost} == {f"{folder}, {n} of 4" for n in (2, 3)}
    kept = {item.text for item in drawn if isinstance(item, Record)}
    assert kept == {f"word {n}" for n in [*range(15), *range(45, 60)]}
    said = [record.message for record in caplog.records if record.name.startswith("tiny_audio")]
    assert any(f"The shard {folder}, 2 of 4 of the data source 'main'" in line for line in said)
    stopping = open_one(kind="hub", path=str(files[0]), options=quick | {"on_failure": "stop"})
    files[0].unlink()
    with pytest.raises(DataError, match="on_failure=stop"):
        next(stopping.draws(1, 0, 1, None))


def test_a_hub_that_cannot_be_reached_says_so_without_long_waits():
    with pytest.raises(DataError, match=r"The dataset nobody/nothing .* cannot be opened"):
        open_one(kind="hub", path="nobody/nothing", options={"retries": 1, "backoff": 0.01})
