"""Intervals and tests err as often as they say; breakdowns add up."""

import numpy as np
import pytest

from tests.evaluate.helpers import evaluation, random_evaluation
from tiny_audio.evaluate.statistics import (
    BREAKDOWNS,
    DURATIONS,
    bootstrap,
    crossing_p,
    divide,
    intervals,
    paired_bootstrap,
    resampled_sums,
)
from tiny_audio.evaluate.wer import Counts


def rejected(ratio: float, utterances: int, simulations: int, seed: int) -> float:
    """Share of simulated comparisons of two systems with p < 5 %.

    Each utterance is as hard for the one as for the other (gamma), and each makes its own errors
    on it (Poisson), B `ratio` times as many as A. All are drawn with the same weights, and stay
    independent of each other given these.
    """
    rng = np.random.default_rng(seed)
    hard = rng.gamma(1.0, 1.2, size=(utterances, simulations))
    differences = (rng.poisson(hard * ratio) - rng.poisson(hard)).astype(np.float32)
    drawn = resampled_sums(differences, 1000, np.random.default_rng(7))
    return float((crossing_p(drawn) < 0.05).mean())


def test_equal_systems_differ_in_one_of_twenty_simulations_and_unequal_ones_are_found() -> None:
    assert 0.04 < rejected(1.0, 500, 2500, seed=1) < 0.06
    assert rejected(0.9, 2000, 200, seed=2) > 0.80


def test_the_paired_bootstrap_has_the_difference_in_its_interval_and_turns_with_the_pair() -> None:
    errors = np.random.default_rng(0).poisson(2.0, size=(2, 60)).astype(float)
    words = np.full(60, 10.0)
    found, turned = paired_bootstrap(*errors, words), paired_bootstrap(*errors[::-1], words)
    assert found.difference == (errors[1] - errors[0]).sum() / 600
    assert found.interval[0] < found.difference < found.interval[1]
    assert found == paired_bootstrap(*errors, words)
    assert (turned.difference, turned.p) == (-found.difference, found.p)
    same = paired_bootstrap(errors[0], errors[0], words)
    assert (same.difference, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize(("units", "spread"), [(20, 0.05), (100, 0.02)])
def test_intervals_cover_the_true_wer_in_95_of_100_sets(units: int, spread: float) -> None:
    """Each speaker has an error rate of its own around the true 0.2, and says 20 to 60 words."""
    rng = np.random.default_rng(units)
    truth, hits, trials = 0.2, 0, 1000
    for _ in range(trials):
        words = rng.integers(20, 61, size=units)
        rates = rng.beta(truth / spread, (1 - truth) / spread, size=units)
        errors = rng.binomial(words, rates).astype(float)
        (found,) = intervals(errors[:, None], words[:, None].astype(float), 400, rng)
        assert found is not None
        hits += found[0] <= truth <= found[1]
    assert 0.93 <= hits / trials <= 0.97


@pytest.mark.parametrize(
    ("speakers", "sources", "unit", "units"),
    [
        ([None] * 6, 1, "utterance", 6),
        (["a", "b", "c"] * 2, 1, "speaker", 3),
        (["a"] * 6, 2, "speaker", 2),  # who is called alike in two sources is two
        (["a", "a", "a", "b", None, None], 1, "speaker or utterance", 4),
        (["a"] * 6, 1, "utterance", 6),
    ],
)
def test_speakers_are_drawn_where_they_are_known(speakers, sources, unit, units):
    columns = {"speaker": list(speakers), "source": [f"s{i % sources}" for i in range(6)]}
    drawn = bootstrap(evaluation([("a b", "a c")] * 6, **columns))
    assert (drawn.unit, drawn.units) == (unit, units)


def test_what_cannot_be_known_has_no_interval() -> None:
    drawn = bootstrap(evaluation([("", "noise"), ("", "")]))
    assert drawn.intervals["wer"] is None
    assert drawn.intervals["cer"] is None
    assert drawn.intervals["sentence_error_rate"] is not None
    assert bootstrap(evaluation([])).intervals["wer"] is None
    assert set(bootstrap(evaluation([("a b", "a c")])).intervals.values()) == {None}


@pytest.mark.parametrize("kind", BREAKDOWNS)
def test_the_parts_add_up_to_the_whole(kind: str) -> None:
    whole = random_evaluation(200)
    found = divide(whole, kind)
    assert len(found) > 1
    assert sorted(i for part in found.values() for i in part) == list(range(200))
    parts = [whole.select(part).score.words for part in found.values()]
    assert Counts.total(parts) == whole.score.words


def test_bins_come_in_order_and_hold_their_lower_edges() -> None:
    assert list(divide(random_evaluation(300), "duration")) == DURATIONS
    edges = evaluation([("a", "a")] * 5, duration=[30.0, 5.0, 4.999, 2.0, 1.999])
    found = {"0 to 2 s": [4], "2 to 5 s": [2, 3], "5 to 10 s": [1], "30 s and more": [0]}
    assert divide(edges, "duration") == found
