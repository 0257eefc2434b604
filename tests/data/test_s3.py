"""Shards and recordings in an object store: a server of the S3 kind on this machine (moto)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.data.helpers import noise, open_one
from tests.data.test_files import FILES, ROWS, write_files
from tiny_audio.audio.io import load_audio
from tiny_audio.data.records import Record, Reject
from tiny_audio.errors import AudioError, DataError

_MISSING = [name for name in ("moto", "s3fs", "flask_cors") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"needs {', '.join(_MISSING)}: .[dev]")

QUICK = {"retries": 1, "backoff": 0.01}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files of every kind in s3://speech, and the same on the disk."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        bucket = s3fs.S3FileSystem()
        bucket.mkdir("speech")
        for kind in ("parquet", "webdataset"):
            write_files(folder / kind, kind)
        soundfile.write(folder / "one.flac", noise(0.5, 1), 16_000)
        bucket.put(f"{folder}/", "speech/", recursive=True)
        yield folder
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_store_is_read_as_a_folder_is(store, kind):
    there = open_one(kind=kind, path=f"s3://speech/{kind}", options=QUICK)
    here = open_one(kind=kind, path=str(store / kind))
    assert [r.text for r in there.records()] == [r.text for r in here.records()]
    assert [r.id for r in there.records(30)] == [r.id for r in here.records(30)]
    ending = "tar" if kind == "webdataset" else kind
    first = open_one(kind=kind, path=f"s3://speech/{kind}/part-0[02].{ending}", options=QUICK)
    assert len(list(first.records())) == 2 * ROWS


def test_a_shard_that_goes_away_is_left_out_and_counted(store):
    import s3fs

    bucket = s3fs.S3FileSystem()
    bucket.put(f"{store / 'webdataset'}/", "speech/holes/", recursive=True)
    source = open_one(kind="webdataset", path="s3://speech/holes", options=QUICK)
    bucket.rm("speech/holes/part-02.tar")
    bucket.pipe("speech/holes/part-03.tar", b"\0\1" * 5_000)
    items = list(source.records())
    lost = [(item.id, item.reason) for item in items if isinstance(item, Reject)]
    where, reasons = "s3://speech/holes/part-0", {2: "shard_unreachable", 3: "shard_corrupt"}
    assert lost == [(f"{where}{n}.tar", reason) for n, reason in reasons.items()]
    assert sum(isinstance(item, Record) for item in items) == (FILES - 2) * ROWS


def test_recordings_lie_in_the_store(store, tmp_path):
    expected = load_audio(store / "one.flac")
    assert (load_audio("s3://speech/one.flac") == expected).all()
    with pytest.raises(AudioError, match=r"s3://speech/no\.flac cannot be downloaded: there is no"):
        load_audio("s3://speech/no.flac")
    with pytest.raises(AudioError, match="--max-download"):
        load_audio("s3://speech/one.flac", max_bytes=1_000)
    with pytest.raises(AudioError, match="gcsfs"):
        load_audio("gs://a/b.flac")
    import s3fs

    pq.write_table(pa.table({"audio": ["one.flac"], "text": ["one"]}), tmp_path / "t.parquet")
    s3fs.S3FileSystem().put(str(tmp_path / "t.parquet"), "speech/t.parquet")
    (record,) = open_one(kind="parquet", path="s3://speech/t.parquet").records()
    assert record.audio == "s3://speech/one.flac"  # beside its table


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://nobody", r"s3://nobody cannot be listed|s3://nobody has no"),
        ("s3://speech/tables", r"s3://speech/tables has no \.parquet file"),
        ("gs://a/b", r"gs://a/b cannot be listed: .*gcsfs"),  # its package is missing
    ],
)
def test_what_cannot_be_listed_says_so(store, path, message):
    with pytest.raises(DataError, match=message):
        open_one(kind="parquet", path=path, options=QUICK)
