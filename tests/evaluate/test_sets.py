"""The public test sets by name, and the chunks of a set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tiny_audio.compose import compose
from tiny_audio.data import sources
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.results import Record
from tiny_audio.evaluate.sets import chunks, whole_chunks

KNOWN = {
    "ami", "common_voice", "earnings22", "gigaspeech", "librispeech", "librispeech_clean",
    "librispeech_other", "loquacious", "open_asr", "spgispeech", "tedlium", "voxpopuli",
}  # fmt: skip


def test_every_benchmark_is_test_sets_of_the_hub() -> None:
    assert set(sources.benchmarks()) == KNOWN
    for name, size in {"open_asr": 8, "librispeech": 2, "loquacious": 1}.items():  # all members
        sets = {**compose([f"+data/eval={name}", "data=manifest", "output_dir=."]).data.eval}
        assert sets.pop("main").path is None
        assert len(sets) == size
        for source in sets.values():
            assert (source.kind, source.split, source.max_samples) == ("hub", "test", None)
            assert all((source.path, source.subset, source.id_column))
    with pytest.raises(ConfigError, match=r"\+data/eval=tedlium"):
        compose(["+data/eval=tedliun", "output_dir=."])


def test_a_benchmark_that_cannot_be_reached_is_a_data_error() -> None:
    with pytest.raises(DataError, match="hf-audio/esb-datasets-test-only-sorted"):
        sources.open_set("ami")


def test_chunks_are_the_items_and_end_with_the_seconds() -> None:
    lengths = [3.0, 0.0, 2.0, 9.0, 1.0, 0.0, 1.0]
    found = [list(chunk) for chunk in chunks(range(7), 4.0, lambda i: lengths[i])]
    assert found == [[0, 1, 2], [3], [4, 5, 6]]
    assert list(chunks([], 4.0, float)) == []


def test_only_whole_chunks_count_and_the_rest_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    records = [Record(str(i), "s", "", "", 1.5, 0.0, model="m", set="a") for i in range(5)]
    lines = [record.to_json() + "\n" for record in records]
    path.write_text("".join(lines) + lines[0][:20])
    assert whole_chunks(path, 3.0, complete=False) == records[:4]
    assert path.read_text() == "".join(lines[:4])
    other = replace(records[0], set="b")
    path.write_text("".join([*lines, other.to_json() + "\n"]))
    assert whole_chunks(path, 3.0, complete=False) == records  # the set before is over
    path.write_text("".join(lines))
    assert whole_chunks(path, 3.0, complete=True) == records
    assert whole_chunks(tmp_path / "none.jsonl", 3.0, complete=False) == []
