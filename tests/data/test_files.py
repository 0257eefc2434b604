"""Sources on this machine: what is drawn, by whom, and from where on; and files of every kind."""

import json
from itertools import islice, takewhile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

import tiny_audio.data.shards as shards
from tests.data.helpers import clip, make_corpus, noise, open_one, write_tar
from tiny_audio.audio.io import load_audio
from tiny_audio.data.files import find_shards
from tiny_audio.data.records import Record, Reject, Source
from tiny_audio.data.shards import audio_of
from tiny_audio.data.sources import hold_out
from tiny_audio.errors import AudioError, DataError

FILES, ROWS = 4, 9
KINDS = ["parquet", "webdataset", "hub"]


def sound(number: int, kind: str = "FLAC") -> bytes:
    return clip(0.3 + number / 200, number, kind)


def write_files(folder: Path, kind: str) -> Path:
    """Shards of a kind; those of the hub have its own metadata, and a column too many."""
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        mine = range(number * ROWS, (number + 1) * ROWS)
        path = folder / f"part-{number:02d}"
        if kind == "webdataset":
            parts = {"flac": sound, "txt": lambda n: b"word %d" % n}
            pairs = [(f"x/{n:03d}.{end}", part(n)) for n in mine for end, part in parts.items()]
            write_tar(path.with_suffix(".tar.gz" if number == 1 else ".tar"), pairs)
            continue
        columns = {
            "audio": [{"bytes": sound(n), "path": "audio.flac"} for n in mine],
            "text": [f"word {n}" for n in mine],
            "speaker": [f"s{n % 3}" for n in mine],
        }
        table = pa.table(columns | ({"useless": [[1.0, 2.0]] * ROWS} if kind == "hub" else {}))
        if kind == "hub":
            features: dict = {name: {"dtype": "string", "_type": "Value"} for name in columns}
            features["audio"] = {"_type": "Audio"}
            number_type = {"dtype": "float64", "_type": "Value"}
            features["useless"] = {"feature": number_type, "_type": "List"}
            metadata = {"huggingface": json.dumps({"info": {"features": features}})}
            table = table.replace_schema_metadata(metadata)
        pq.write_table(table, f"{path}.parquet", row_group_size=4)
    return folder


@pytest.fixture(scope="module", params=[*KINDS, "manifest"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "manifest":
        return {"path": str(make_corpus(folder, FILES * ROWS))}
    return {"kind": request.param, "path": str(write_files(folder, request.param))}


@pytest.fixture
def source(place: dict) -> Source:
    return open_one(**place)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK", 5)


def test_rows_are_records_in_their_order(place):
    source = open_one(**place, speaker_column="speaker")
    records = list(source.records())
    assert [record.text for record in records] == [f"word {n}" for n in range(FILES * ROWS)]
    assert len({record.id for record in records}) == FILES * ROWS
    assert [record.id for record in source.records(30)] == [record.id for record in records[30:]]
    if place.get("kind", "manifest") != "manifest":
        assert records[13].audio == sound(13)
    if place.get("kind") in ("parquet", "hub"):
        assert records[13].speaker == "s1"


def test_each_pass_is_whole_and_in_another_order(source):
    drawn = list(islice(source.draws(1, 0, 1, None), 2 * FILES * ROWS))
    first, second = ([d.item.id for d in drawn if d.epoch == epoch] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(row.id for row in source.records())
    other = [d.item.id for d in islice(source.draws(2, 0, 1, None), FILES * ROWS)]
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


def test_the_held_out_part_is_never_drawn(source):
    (trained,), (held,) = hold_out([source], 3)
    held_ids = {row.id for row in held.records()}
    assert len(held_ids) <= 3
    drawn = {d.item.id for d in islice(trained.draws(1, 0, 1, None), FILES * ROWS - 3)}
    assert not held_ids & drawn


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("world_size", [2, 6])  # more ranks than files, too
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_goes_away_or_is_damaged_is_left_out(tmp_path, kind, caplog):
    folder = write_files(tmp_path / kind, kind)
    quick = {"retries": 1, "backoff": 0.01}
    source = open_one(kind=kind, path=str(folder), options=quick)
    names, files = source._names, sorted(folder.iterdir())
    files[1].unlink()
    files[2].write_bytes(b"\0\1" * 5_000)
    items = list(source.records())
    lost = {item.id: item.reason for item in items if isinstance(item, Reject)}
    assert lost == {names[1]: "shard_unreachable", names[2]: "shard_corrupt"}
    kept = [item.text for item in items if isinstance(item, Record)]
    assert kept == [f"word {n}" for n in [*range(ROWS), *range(3 * ROWS, FILES * ROWS)]]
    assert f"The shard {names[1]} of the data source 'main'" in caplog.text
    stopping = open_one(kind=kind, path=str(folder), options=quick | {"on_failure": "stop"})
    files[0].unlink()
    files[3].unlink()
    with pytest.raises(DataError, match="on_failure=stop"):
        next(stopping.draws(1, 0, 1, None))


def test_what_cannot_be_opened_says_so_in_one_line(tmp_path):
    folder = str(write_files(tmp_path / "hub", "hub"))
    for values, message in [
        ({"path": folder, "split": "dev"}, r"split dev\) cannot be .*data\.train\.main\.split"),
        ({"path": folder, "audio_column": "useless"}, r"no audio: set data\.train\.main\.audio"),
        ({"path": "nobody/nothing"}, r"The dataset nobody/nothing .* cannot be opened"),
    ]:
        with pytest.raises(DataError, match=message):
            open_one(kind="hub", options={"retries": 1, "backoff": 0.01}, **values)


@pytest.mark.parametrize("kind", ["parquet", "hub"])
def test_rows_that_lack_something_are_rejects(tmp_path, kind):
    audio = pa.array([sound(1), None, sound(1)], type=pa.binary())
    table = pa.table({"audio": audio, "text": ["fine", "no sound", None]})
    pq.write_table(table, tmp_path / "x.parquet")
    fine, silent, mute = open_one(kind=kind, path=str(tmp_path)).records()
    assert fine.audio == sound(1)
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
    for path, message in [
        (f"{tmp_path}/no.tar", "has no .tar"),
        (f"{tmp_path}/{{a1,no}}.tar", "no.tar has no .tar"),
        ("http://h/*.tar", "takes no"),
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
