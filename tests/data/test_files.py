"""Parquet, arrow and WebDataset files on this machine."""

from __future__ import annotations

import json
from itertools import islice, takewhile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

import tiny_audio.data.shards as shards
from tests.data.helpers import clip, noise, open_one, write_tar
from tiny_audio.data.files import find_shards
from tiny_audio.data.records import Record, Source
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import DataError

FILES, ROWS = 4, 9
KINDS = ["parquet", "arrow", "webdataset"]


def sound(number: int, kind: str = "FLAC") -> bytes:
    return clip(0.3 + number / 200, number, kind)


def write_files(folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        mine = range(number * ROWS, (number + 1) * ROWS)
        path = folder / f"part-{number:02d}"
        if kind == "webdataset":
            parts = {"flac": sound, "txt": lambda n: b"word %d" % n}
            pairs = [(f"x/{n:03d}.{end}", part(n)) for n in mine for end, part in parts.items()]
            write_tar(path.with_suffix(".tar.gz" if number == 1 else ".tar"), pairs)
            continue
        table = pa.table(
            {
                "audio": [{"bytes": sound(n), "path": f"{n:03d}.flac"} for n in mine],
                "text": [f"word {n}" for n in mine],
                "speaker": [f"s{n % 3}" for n in mine],
            }
        )
        if kind == "parquet":
            pq.write_table(table, path.with_suffix(".parquet"), row_group_size=4)
            continue
        maker = pa.ipc.new_file if number % 2 else pa.ipc.new_stream
        with maker(str(path.with_suffix(".arrow")), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = write_files(tmp_path_factory.mktemp(request.param), request.param)
    return {"kind": request.param, "path": str(folder)}


@pytest.fixture
def source(place: dict) -> Source:
    return open_one(**place)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK", 5)


def test_rows_are_records_in_their_order(source):
    records = list(source.records())
    assert [record.text for record in records] == [f"word {n}" for n in range(FILES * ROWS)]
    assert records[13].audio == sound(13)
    assert len({record.id for record in records}) == FILES * ROWS
    assert [record.id for record in source.records(30)] == [record.id for record in records[30:]]


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("world_size", [1, 2, 6])  # more ranks than files, too
def test_ranks_share_every_pass(place, world_size, limit):
    source = open_one(**place, max_samples=limit)
    drawn = []
    for rank in range(world_size):
        draws = source.draws(7, rank, world_size, None)
        drawn += [d.item.text for d in takewhile(lambda d: d.epoch == 0, draws)]
    assert sorted(drawn) == sorted(r.text for r in source.records())


def test_a_cursor_goes_on_at_the_next_record(source):
    drawn = list(islice(source.draws(7, 0, 1, None), 60))
    for at in (1, 4, 5, 6, 18, 35, 36, 37):
        cursor = json.loads(json.dumps(drawn[at - 1].cursor))
        again = [d.item.id for d in islice(source.draws(7, 0, 1, cursor), 15)]
        assert again == [d.item.id for d in drawn[at : at + 15]]
    passes = [source.passes(d.cursor, 1) for d in drawn]
    assert passes == sorted(passes)
    assert 0.9 < passes[35] <= 1 < passes[59] < 2


def test_a_damaged_file_is_left_out(tmp_path):
    for kind in KINDS:
        folder = write_files(tmp_path / kind, kind)
        bad = sorted(folder.iterdir())[2]
        bad.write_bytes(b"\0\1" * 5_000)
        items = list(open_one(kind=kind, path=str(folder)).records())
        (reject,) = [item for item in items if isinstance(item, Reject)]
        assert (reject.id, reject.reason) == (str(bad), "shard_corrupt")
        assert len(items) == (FILES - 1) * ROWS + 1


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_tar_file_that_breaks_off_gives_what_it_holds(tmp_path, kept):
    members = [(f"{n}.{end}", sound(n, "WAV")) for n in range(6) for end in ("wav", "x")]
    data = write_tar(tmp_path / "a.tar", members).read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: int(len(data) * kept)])
    items = list(open_one(kind="webdataset", path=str(tmp_path), text_column="__key__").records())
    assert items[-1].reason == "shard_corrupt"
    assert len(items) - 1 <= 6 * kept + 1


def test_a_tar_file_cut_between_two_samples_is_not_taken_for_whole(tmp_path):
    members = [(f"{n}.{end}", b"x" * 100) for n in range(3) for end in ("wav", "txt")]
    data = write_tar(tmp_path / "a.tar", members).read_bytes()
    # Two samples and no mark of the end: the second may have had more parts.
    (tmp_path / "a.tar").write_bytes(data[: 4 * 1024])
    items = list(open_one(kind="webdataset", path=str(tmp_path / "a.tar")).records())
    assert [type(item) for item in items] == [Record, Reject]
    (tmp_path / "a.tar").write_bytes(data[: 4 * 1024] + b"garbage" * 600)
    items = list(open_one(kind="webdataset", path=str(tmp_path / "a.tar")).records())
    assert [type(item) for item in items] == [Record, Reject]


def test_webdataset_samples_of_every_kind(tmp_path):
    body = sound(1)
    about = json.dumps({"text": "from json", "who": "ann", "uid": 17}).encode()
    members = [
        ("a.b/1.FLAC", body), ("a.b/1.json", about),
        ("./2.m4a", body), ("./2.txt", "zwölf\n".encode()),
        ("3.opus", body), ("3.cls", b"7"),
        (".hidden", b"x"),
        ("4.txt", b"no sound"),
        ("5.mp3", body),
        ("6.wav", body), ("6.json", b"{broken"),
        ("7.wav", body), ("7.txt", b"\xff\xfe\xff"),
        ("8.wav", body), ("8.wav", body),
        ("9.left.ogg", body), ("9.txt", b"dots"),
    ]  # fmt: skip
    path = write_tar(tmp_path / "s.tar", members)
    source = open_one(kind="webdataset", path=str(path), speaker_column="who")
    items = list(source.records())
    good = {item.id: (item.text, item.speaker) for item in items if isinstance(item, Record)}
    assert good == {
        "s.tar/a.b/1": ("from json", "ann"),
        "s.tar/2": ("zwölf\n", None),
        "s.tar/3": ("7", None),
        "s.tar/9": ("dots", None),
    }
    assert {item.id: item.reason for item in items if isinstance(item, Reject)} == {
        "s.tar/4": "bad_record",
        "s.tar/5": "no_transcript",
        "s.tar/6": "bad_record",
        "s.tar/7": "bad_record",
        "s.tar/8": "bad_record",
    }
    only = open_one(kind="webdataset", path=str(path), id_column="uid", text_column="text")
    assert next(iter(only.records())).id == "17"
    with pytest.raises(DataError, match=r"no column 'words'.*text_column"):
        open_one(kind="webdataset", path=str(path), text_column="words")


def test_audio_by_path_lies_beside_its_table(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0.5, 0), 16_000)
    table = pa.table({"file": ["a.wav", "https://example.org/b.wav"], "text": ["one", "two"]})
    pq.write_table(table, tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    one, two = open_one(kind="parquet", path=path, audio_column="file").records()
    assert (one.audio, one.id) == (tmp_path / "a.wav", str(tmp_path / "a.wav"))
    assert two.id == "https://example.org/b.wav"
    with pytest.raises(DataError, match=r"no column 'audio', but file, text"):
        open_one(kind="parquet", path=path)


def test_paths_that_stand_for_many(tmp_path):
    for name in ("a1.tar", "a2.tar", "b1.tgz", "c.txt", "sub/d.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(path: str) -> list[str]:
        places = find_shards(path, "webdataset", "data.train.main")
        return [place.removeprefix(f"{tmp_path}/") for place in places]

    assert found(str(tmp_path)) == ["a1.tar", "a2.tar", "b1.tgz", "sub/d.tar"]
    assert found(f"{tmp_path}/a*.tar") == ["a1.tar", "a2.tar"]
    assert found(f"{tmp_path}/**/*.tar") == ["a1.tar", "a2.tar", "sub/d.tar"]
    assert found(f"{tmp_path}/{{b1.tgz,a{{1..2}}.tar}}") == ["b1.tgz", "a1.tar", "a2.tar"]
    assert found("http://h/x-{08..11}.tar") == [f"http://h/x-{n:02d}.tar" for n in range(8, 12)]
    (tmp_path / "c.txt").write_text(f"# mine\n{tmp_path}/a2.tar\n\nhttp://h/{{x,y}}.tar\n")
    assert found(f"{tmp_path}/c.txt") == ["a2.tar", "http://h/x.tar", "http://h/y.tar"]
    for path, message in [
        (f"{tmp_path}/no.tar", "has no .tar"),
        (f"{tmp_path}/{{a1,no}}.tar", "no.tar has no .tar"),
        ("http://h/*.tar", "takes no"),
        (f"{tmp_path}/no.txt", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            found(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_failure": "ignore"}, "use skip or stop"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"timeout": 0}, "timeout=0"),
        ({"backoff": "long"}, "backoff=long"),
        ({"retry": 1}, "options has retry, but parquet knows on_failure, retries, backoff"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    pq.write_table(pa.table({"audio": [b"x"], "text": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        open_one(kind="parquet", path=str(tmp_path), options=options)
