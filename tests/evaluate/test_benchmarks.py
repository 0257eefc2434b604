"""The public test sets by name."""

from __future__ import annotations

import pytest

from tiny_audio.compose import compose
from tiny_audio.data import named
from tiny_audio.errors import ConfigError, DataError

KNOWN = {
    "ami", "common_voice", "earnings22", "gigaspeech", "librispeech", "librispeech_clean",
    "librispeech_other", "loquacious", "open_asr", "spgispeech", "tedlium", "voxpopuli",
}  # fmt: skip


def test_the_benchmarks_are_known_by_name() -> None:
    assert set(named.benchmarks()) == KNOWN


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_benchmark_composes_to_test_sets_of_the_hub(name: str) -> None:
    sets = {**compose([f"+data/eval={name}", "data=manifest", "output_dir=."]).data.eval}
    assert sets.pop("main").path is None
    assert sets
    for source in sets.values():
        assert source.kind == "hub"
        assert source.path is not None
        assert source.split == "test"
        assert source.subset
        assert source.id_column
        assert source.max_samples is None


def test_groups_of_benchmarks_hold_their_members() -> None:
    both = compose(["+data/eval=librispeech", "data=folder", "output_dir=."]).data.eval
    assert set(both) == {"main", "librispeech_clean", "librispeech_other"}
    board = compose(["+data/eval=open_asr", "data=folder", "output_dir=."]).data.eval
    assert len(board) == 1 + 8


def test_a_wrong_benchmark_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"\+data/eval=tedlium"):
        compose(["+data/eval=tedliun", "output_dir=."])


def test_a_benchmark_that_cannot_be_reached_is_a_data_error() -> None:
    with pytest.raises(DataError, match="hf-audio/esb-datasets-test-only-sorted"):
        named.open_set("ami")
