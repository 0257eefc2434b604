"""The public test sets by name, chunks of a set, and the estimate of its noise."""

from __future__ import annotations

import numpy as np
import pytest

from tests.infer.helpers import tones
from tiny_audio.compose import compose
from tiny_audio.data import sources
from tiny_audio.data.records import Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.sets import Sample, chunks, estimate_snr

KNOWN = {
    "ami", "common_voice", "earnings22", "gigaspeech", "librispeech", "librispeech_clean",
    "librispeech_other", "loquacious", "open_asr", "spgispeech", "tedlium", "voxpopuli",
}  # fmt: skip


def test_the_benchmarks_are_known_by_name() -> None:
    assert set(sources.benchmarks()) == KNOWN


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
        sources.open_set("ami")


def test_chunks_are_the_samples_and_end_with_the_seconds() -> None:
    lengths = [3.0, 0.0, 2.0, 9.0, 1.0, 0.0, 1.0]
    clips = tones([length or 1.0 for length in lengths])
    samples = [
        Sample(Utterance(str(i), clip, "", "s") if length else Reject(str(i), "s", "torn", ""))
        for i, (clip, length) in enumerate(zip(clips, lengths, strict=True))
    ]
    found = [[sample.item.id for sample in chunk] for chunk in chunks(samples, 4.0)]
    assert found == [["0", "1", "2"], ["3"], ["4", "5", "6"]]
    assert list(chunks([], 4.0)) == []


def test_noise_lowers_the_estimate_by_about_as_much_as_was_added() -> None:
    """On what the estimate assumes: speech whose amplitudes follow a Gamma distribution."""
    rng = np.random.default_rng(7)
    speech = rng.gamma(0.4, 1.0, 480_000) * rng.choice([-1.0, 1.0], 480_000)
    noise = rng.normal(size=480_000) * np.sqrt((speech**2).mean())
    for decibels in (0, 7, 15, 22, 30):
        mixed = (speech + noise * 10 ** (-decibels / 20)).astype(np.float32)
        assert estimate_snr(mixed) == pytest.approx(decibels, abs=1.0)


def test_silence_has_no_estimate_and_loudness_does_not_matter() -> None:
    assert estimate_snr(np.zeros(16_000, np.float32)) is None
    assert estimate_snr(np.zeros(0, np.float32)) is None
    (clip,) = tones([2.0])
    assert estimate_snr(clip) == estimate_snr(clip * np.float32(0.25))
    padded = np.concatenate([np.zeros(16_000, np.float32), clip])
    assert estimate_snr(padded) == estimate_snr(clip)
