"""Sources: the records they hold, what they say when they cannot be opened, what they hold out."""

import codecs
import csv
import json
from dataclasses import asdict
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest

import tiny_audio
from tests.data.helpers import make_corpus, open_one, spec, write_manifest
from tiny_audio.compose import compose
from tiny_audio.data.check import check_command
from tiny_audio.data.records import Record, Reject, Source
from tiny_audio.data.sources import KINDS, hold_out, open_data, open_set
from tiny_audio.errors import DataError


def records(source: Source) -> list[Record]:
    return [item for item in source.records() if isinstance(item, Record)]


def rejects(source: Source) -> list[Reject]:
    return [item for item in source.records() if isinstance(item, Reject)]


def test_manifest_paths_are_relative_to_it(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere.wav"
    manifest = write_manifest(
        tmp_path / "m.jsonl",
        [
            {"audio_filepath": "sub/a.wav", "text": "one", "duration": 1.5, "speaker": 7, "x": 1},
            {"audio_filepath": str(elsewhere), "text": "two"},
            {"audio_filepath": "https://example.org/b.wav", "text": 3},
        ],
    )
    monkeypatch.chdir("/")
    first, second, third = records(open_one(path=str(manifest)))
    assert first.audio == tmp_path / "sub/a.wav"
    assert (first.id, first.text, first.seconds) == ("sub/a.wav", "one", 1.5)
    assert (first.speaker, first.extra) == ("7", {"x": 1})
    assert second.audio == elsewhere
    assert (third.audio, third.text) == ("https://example.org/b.wav", "3")


def test_manifest_columns_are_mapped(tmp_path):
    row = {"wav": "a.wav", "sentence": "hello", "key": 12, "who": "ann", "duration": 2}
    columns = {"audio": "wav", "text": "sentence", "id": "key", "speaker": "who"}
    settings = {f"{role}_column": name for role, name in columns.items()}
    (record,) = records(open_one(path=str(write_manifest(tmp_path / "m.jsonl", [row])), **settings))
    assert (record.id, record.text, record.speaker, record.seconds) == ("12", "hello", "ann", 2.0)
    assert record.extra == {}


def test_a_missing_column_names_those_found_and_the_setting(tmp_path):
    manifest = write_manifest(tmp_path / "m.jsonl", [{"audio_filepath": "a", "text": "b"}])
    for setting in ("audio_column", "text_column", "id_column"):
        with pytest.raises(DataError) as error:
            open_one(path=str(manifest), **{setting: "nope"})
        assert f"{manifest} has no column 'nope', but audio_filepath, text" in str(error.value)
        assert f"set data.train.main.{setting}" in str(error.value)
    with pytest.raises(DataError, match=r"No such file.*set data\.train\.main\.path"):
        open_one(path=str(tmp_path / "gone.jsonl"))
    assert len(records(open_one(path=str(manifest), max_samples=3))) == 1


def test_folder_with_text_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.wav", "a.FLAC", "deep/c.ogg", "lonely.wav", "bad.wav"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + "Grüße\n".encode())
    (tmp_path / "b.txt").write_text("bee")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "deep/c.txt").write_text("sea")
    (tmp_path / "notes.md").write_text("no audio")
    source = open_one(kind="folder", path=str(tmp_path))
    found = {r.id: r.text.strip() for r in records(source)}
    assert found == {"a.FLAC": "Grüße", "b.wav": "bee", "deep/c.ogg": "sea"}
    assert list(found) == sorted(found)
    lacking = {r.id: r.reason for r in rejects(source)}
    assert lacking == {"bad.wav": "bad_record", "lonely.wav": "no_transcript"}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_folder_with_metadata(tmp_path, kind):
    (tmp_path / "part").mkdir()
    for name in ("part/a.wav", "part/b.wav", "part/none.wav"):
        (tmp_path / name).touch()
    rows = [
        {"file_name": "a.wav", "words": 'He said, "no"\nand left', "speaker": "s1", "age": "9"},
        {"file_name": "b.wav", "words": "bee", "speaker": "s2", "age": "8"},
    ]
    with (tmp_path / f"part/metadata.{kind}").open("w", newline="") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    source = open_one(kind="folder", path=str(tmp_path), text_column="words")
    first, second = records(source)
    assert (first.id, first.text, first.speaker) == ("part/a.wav", rows[0]["words"], "s1")
    assert first.audio == tmp_path / "part/a.wav"
    assert (second.text, second.extra) == ("bee", {"age": "8"})
    assert [(r.id, r.reason) for r in rejects(source)] == [("part/none.wav", "no_transcript")]


def test_folders_that_lack_something_say_what(tmp_path):
    with pytest.raises(DataError, match="has no audio files"):
        open_one(kind="folder", path=str(tmp_path))
    with pytest.raises(DataError, match="There is no folder"):
        open_one(kind="folder", path=str(tmp_path / "nope"))
    (tmp_path / "metadata.csv").write_text("file_name,words\na.wav,hello\n")
    with pytest.raises(DataError, match=r"no column 'text', but file_name, words: set data\.train"):
        open_one(kind="folder", path=str(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "tape"}, "is no kind of source: use manifest | folder | hub | synthetic"),
        ({"path": None}, "has no path: set data.path=..., or data.train.main.path=..."),
        ({"split": "train"}, "data.train.main.split has no meaning for kind=manifest"),
        ({"options": {"speed": 2}}, "options has speed, but manifest knows none"),
        ({"max_samples": 0}, "max_samples=0: use 1 or more"),
    ],
)
def test_settings_that_make_no_sense(corpus, values, message):
    with pytest.raises(DataError) as error:
        open_one(**({"path": str(corpus)} | values))
    assert message in str(error.value)


def test_without_evaluation_data_some_of_the_training_data_is_held_out(corpus):
    train = {"main": spec(path=str(corpus))}
    nothing = {"main": spec(path=None)}
    trained, held = open_data(train, nothing, holdout=3)
    everything = {record.id for record in records(open_one(path=str(corpus)))}
    held_ids = {record.id for record in records(held[0])}
    assert len(held_ids) == 3
    assert {record.id for record in records(trained[0])} == everything - held_ids

    again = open_data(train, nothing, holdout=3)[1]
    assert {record.id for record in records(again[0])} == held_ids
    assert open_data(train, {}, holdout=0)[1] == []
    given = open_data(train, {"main": spec(path=str(corpus))}, holdout=3)
    assert [source.length for source in given[0] + given[1]] == [40, 40]


def test_held_out_ids_stay_held_out_when_the_data_changes_order(tmp_path, corpus):
    lines = corpus.read_text().splitlines()
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("\n".join(reversed(lines)))
    first, second = (
        {r.id for r in records(hold_out([open_one(path=str(path))], 4)[1][0])}
        for path in (corpus, shuffled)
    )
    assert first == second


@pytest.mark.parametrize(("size", "kept"), [(12, (11, [1])), (1, (1, []))])
def test_a_small_set_keeps_most_of_itself(tmp_path, size, kept):
    (trained,), held = hold_out([open_one(path=str(make_corpus(tmp_path, size)))], 64)
    assert (trained.length, [part.length for part in held]) == kept


def test_synthetic_speech_is_found_at_any_position():
    pytest.importorskip("espeakng_loader")
    source = open_one(kind="synthetic", options={"seed": 4})
    assert source.endless
    far = list(islice(source.records(start=130), 3))
    again = list(islice(source.records(), 133))[130:]
    assert [(r.id, r.text, r.speaker) for r in far] == [(r.id, r.text, r.speaker) for r in again]
    assert isinstance(far[0], Record)
    assert callable(far[0].audio)
    waveform = far[0].audio()
    assert isinstance(waveform, np.ndarray)
    assert waveform.dtype == np.float32
    assert len(waveform) > 4_000

    trained, held = hold_out([source], 5)
    assert trained[0].endless
    assert held[0].length == 5
    assert not {r.speaker for r in records(held[0])} & {r.speaker for r in again}
    assert open_one(kind="synthetic", max_samples=6).length == 6
    with pytest.raises(DataError, match=r"no split 'dev': set data\.train\.main\.split"):
        open_one(kind="synthetic", split="dev")


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ("", r"empty: look at "),
        ('{"audio_filepath": "a.wav", "sentence": "b"}\n', r"no column 'text', but .*sentence: "),
        (None, r"no audio files: look at "),
    ],
)
def test_a_set_that_was_typed_is_mended_where_it_was_typed(tmp_path, content, advice):
    """Nobody who typed --data can set data.eval.NAME.path."""
    place = tmp_path / "set"
    if content is None:
        place.mkdir()
    else:
        place.write_text(content)
    with pytest.raises(DataError, match=advice) as error:
        open_set(str(place), "--against")
    said = str(error.value)
    assert str(place) in said
    assert "--against" in said
    assert "data.eval" not in said
    with pytest.raises(DataError, match=advice) as error:
        check_command(str(place), [])
    assert "data.train.main.path" not in str(error.value)
    if content:  # a setting that can be typed after DATA
        assert "set data.train.main.text_column" in str(error.value)


def test_a_set_that_is_not_there_is_told_with_the_presets():
    with pytest.raises(DataError, match=r"gone\.jsonl: there is no such file.*librispeech_clean"):
        open_set("gone.jsonl")


CONF = Path(tiny_audio.__file__).parent / "conf" / "data"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_into_sources_that_can_be_opened(preset):
    data = compose(["model=tiny", f"data={preset}", "data.path=here"]).data
    assert data.train
    for name, source in [*data.train.items(), *data.eval.items()]:
        _, meaningless, options = KINDS[source.kind]
        given = asdict(source)
        assert not [field for field in meaningless if given[field] is not None], name
        assert options is None or not set(source.options) - set(options), name
        assert source.path or source.kind == "synthetic" or name in data.eval, name
    for source, other in product(data.train.values(), data.eval.values()):
        mine, yours = ((s.path, s.subset, s.split) for s in (source, other))
        assert mine != yours or source.path == "here", "what is learned is not evaluated on"


def test_the_mixture_has_shares_of_hours():
    data, gated = (compose([f"data={name}"]).data for name in ("multiasr", "multiasr_gated"))
    assert data.weights == gated.weights == "hours"
    assert all(source.mean_seconds for source in data.train.values())
    weights = {name: source.weight for name, source in data.train.items()}
    assert sum(weight for name, weight in weights.items() if name.startswith("libri")) == 960
    assert gated.train.keys() - data.train.keys() == {"gigaspeech", "spgispeech"}
