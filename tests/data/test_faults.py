"""Streams over HTTP from a server that fails: what can be had is had, what cannot is counted."""

import io
import json
import logging
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from threading import Event

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny_audio.data.shards as shards
from tests.data.faulty import Fault, Server, serving
from tests.data.helpers import clip, make_stream, open_one, write_tar
from tiny_audio.audio.remote import RetryPolicy, UnreadableError, open_remote
from tiny_audio.data.records import Record, Reject, RejectCounts, Source
from tiny_audio.errors import DataError

SHARDS, ROWS = 8, 6
QUICK = {"retries": 2, "backoff": 0.01, "timeout": 0.3}
KINDS = {"webdataset": "tar", "parquet": "parquet"}


def write_shard(folder: Path, kind: str, number: int) -> None:
    mine = range(number * ROWS, (number + 1) * ROWS)
    clips = {n: clip(0.4 + n / 400, n, "WAV") for n in mine}
    path = folder / f"{number:04d}.{KINDS[kind]}"
    if kind == "webdataset":
        texts = {n: (f"{n:03d}.txt", f"word {n}".encode()) for n in mine}
        write_tar(path, [pair for n in mine for pair in ((f"{n:03d}.wav", clips[n]), texts[n])])
        return
    audio = [{"bytes": clips[n], "path": f"{n:03d}.wav"} for n in mine]
    table = pa.table({"audio": audio, "text": [f"word {n}" for n in mine], "more": list(mine)})
    pq.write_table(table, path, row_group_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for kind in KINDS:
        for number in range(SHARDS):
            write_shard(folder, kind, number)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK", 5)


def source_of(server: Server, kind: str, **options: object) -> Source:
    path = f"{server.url}/{{0000..{SHARDS - 1:04d}}}.{KINDS[kind]}"
    return open_one(kind=kind, path=path, options=QUICK | options)


def words(*numbers: int) -> set[str]:
    return {f"word {n}" for shard in numbers for n in range(shard * ROWS, (shard + 1) * ROWS)}


def one_pass(source: Source) -> list[Record | Reject]:
    return [d.item for d in takewhile(lambda d: d.epoch == 0, source.draws(3, 0, 1, None))]


def texts(items: list[Record | Reject]) -> set[str]:
    return {item.text for item in items if isinstance(item, Record)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_shard_that_fails_is_counted_and_nothing_else_is_lost(server, kind, prompt, caplog):
    half = 60_000  # bytes: within the third of six clips
    end = KINDS[kind]
    server.faults = {
        f"0001.{end}": Fault("refuse"),
        f"0002.{end}": Fault("stall", at=half),
        f"0003.{end}": Fault("cut", at=half),
        f"0004.{end}": Fault("garbage"),
        f"0005.{end}": Fault("gone"),
        f"0006.{end}": Fault("cut", at=half, times=2),  # and then it is well
        f"0007.{end}": Fault("busy", times=1),
    }
    source = source_of(server, kind)
    stream = make_stream([source], prompt, pool=64, seed=4)
    heard: list[str] = []
    with caplog.at_level(logging.WARNING, "tiny_audio"):
        for batch in stream:
            if stream.state_dict()["pool"] == 1:  # the second pass
                break
            heard += batch.texts
    assert len(set(heard)) == len(heard)
    assert words(0, 6, 7) <= set(heard) <= words(0, 2, 3, 4, 6, 7)
    counts = RejectCounts.from_dict(stream.state_dict()["rejects"])  # of the first
    assert counts.reasons == {"shard_unreachable": 4, "shard_corrupt": 1}
    assert counts.seen == len(heard) + 5
    left_out = [ROWS - row for epoch, _, row, *_ in source.lost_shards() if epoch == 0]
    assert len(heard) + sum(left_out) == SHARDS * ROWS
    said = [record.message for record in caplog.records]
    assert len(said) >= 5
    assert any(f"0001.{end} of the data source 'main'" in line for line in said)
    partly = words(2, 3) & set(heard)
    if kind == "webdataset":  # a parquet file is known by its end, which did not come
        assert {"word 12", "word 13", "word 18", "word 19"} <= partly
    assert any("left out from row" in line for line in said)


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize(("kind", "at"), [("webdataset", 1), ("webdataset", 7), ("parquet", 4)])
def test_batches_after_a_resume_are_those_of_the_first_run(server, prompt, kind, at, mended):
    end = KINDS[kind]
    faults = {
        f"0002.{end}": Fault("cut", at=60_000),
        f"0005.{end}": Fault("garbage", at=40_000),
        f"0006.{end}": Fault("refuse"),
    }
    server.faults = dict(faults)
    first = make_stream([source_of(server, kind)], prompt)
    batches, states = [], []
    for batch in islice(first, 10):
        batches.append(batch.ids)
        states.append(json.dumps(first.state_dict()))
    state = json.loads(states[at - 1])
    if at == 4:  # as in checkpoints of before the name changed
        state["losses"] = state.pop("lost_shards")
    # A server that is well again after the checkpoint changes only what was not yet read by then.
    pools = [json.loads(later)["pool"] for later in states]
    alike = pools.count(state["pool"]) + sum(pool < state["pool"] for pool in pools)
    server.faults = {} if mended else faults
    second = make_stream([source_of(server, kind)], prompt)
    second.load_state_dict(state)
    until = alike if mended else 9
    assert [batch.ids for batch in islice(second, until - at)] == batches[at:until]


def test_a_server_that_is_gone_ends_the_run(server):
    source = source_of(server, "webdataset", retries=0)
    server.faults = {f"{n:04d}.tar": Fault("refuse") for n in range(SHARDS)}
    with pytest.raises(DataError, match=r"All 8 of the shards of the data source 'main'"):
        list(islice(source.draws(3, 0, 1, None), 200))
    with pytest.raises(DataError, match=r"All 8 of the shards"):
        list(source.records())
    with pytest.raises(DataError, match=r"data\.train\.main cannot be read, such as .*0000\.tar"):
        source_of(server, "webdataset", retries=0)


def test_opening_looks_past_a_bad_first_shard(server):
    server.faults = {"0000.parquet": Fault("garbage"), "0001.parquet": Fault("refuse")}
    assert texts(one_pass(source_of(server, "parquet"))) == words(*range(2, SHARDS))


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_without_ranges_or_lengths(server, folder, kind, lengths):
    server.ranges, server.lengths = False, lengths
    if not lengths and kind == "parquet":
        with pytest.raises(DataError, match="does not tell the length"):
            source_of(server, kind)
        return
    if lengths:
        server.faults = {f"0001.{KINDS[kind]}": Fault("cut", at=60_000, times=1)}
    assert texts(one_pass(source_of(server, kind))) == words(*range(SHARDS))
    size = (folder / "0000.tar").stat().st_size
    with open_remote(f"{server.url}/0000.tar", RetryPolicy(**QUICK), Event()) as file:
        file.seek(size + 500_000)
        assert file.read(10) == b""


def test_resuming_within_a_shard_reads_none_of_the_others(server):
    drawn = list(islice(source_of(server, "parquet").draws(3, 0, 1, None), 60))
    source = source_of(server, "parquet")
    server.asked.clear()
    stream = source.draws(3, 0, 1, drawn[20].cursor)
    assert [d.item.id for d in islice(stream, 5)] == [d.item.id for d in drawn[21:26]]
    stream.close()
    assert len(server.asked) <= 3


def test_the_file_of_an_address_is_the_file(server, folder):
    data = (folder / "0000.tar").read_bytes()
    with open_remote(f"{server.url}/0000.tar", RetryPolicy(**QUICK), Event()) as file:
        for start, count in [(0, 10), (70_000, 300), (5, 20), (len(data) - 4, 99), (33, 0)]:
            file.seek(start)
            assert file.read(count) == data[start : start + count]
        assert file.seek(0, io.SEEK_END) == len(data)
        file.seek(0)
        assert file.read() == data


@pytest.mark.parametrize("kind", ["stall", "trickle", None])
def test_a_server_that_keeps_one_waiting_or_does_not_answer_is_given_up(server, kind):
    server.faults = {"0000.tar": Fault(kind or "", at=100)}
    url = f"{server.url}/0000.tar" if kind else "http://user:secret@127.0.0.1:9/x"
    words = r"tried 3 times" if kind else "refused"
    with (
        open_remote(url, RetryPolicy(**QUICK), Event()) as file,
        pytest.raises(UnreadableError, match=words) as error,
    ):
        file.read()
    assert error.value.reason == "unreachable"
    assert "secret" not in str(error.value)
