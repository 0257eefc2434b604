"""Intervals and tests err as often as they say; breakdowns add up; calibration is as defined."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.helpers import evaluation, failure, random_evaluation
from tiny_audio.evaluate.results import Evaluation
from tiny_audio.evaluate.statistics import (
    BREAKDOWNS,
    FIGURES,
    bin_name,
    bootstrap,
    breakdown,
    calibration,
    crossing_p,
    divide,
    group_sums,
    intervals,
    paired_bootstrap,
    resampled_sums,
)
from tiny_audio.evaluate.wer import Counts

# --------------------------------------------------------------------------------- significance


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


def test_equal_systems_differ_in_one_of_twenty_simulations() -> None:
    assert 0.04 < rejected(1.0, 500, 2500, seed=1) < 0.06


def test_ten_percent_fewer_errors_are_found() -> None:
    assert rejected(0.9, 2000, 200, seed=2) > 0.80


def test_draws_are_with_replacement_and_even() -> None:
    weights = resampled_sums(np.eye(50), 4000, np.random.default_rng(0))
    assert weights.shape == (4000, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.08)
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # binomial


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


def test_units_are_drawn_whole() -> None:
    """Twice the same speaker is no more evidence: with clusters p is larger."""
    difference = np.repeat(np.random.default_rng(4).normal(0.3, 1.0, size=40), 25)
    words = np.full(1000, 10.0)
    alone = paired_bootstrap(np.zeros(1000), difference, words)
    sums = (values.reshape(40, 25).sum(1) for values in (np.zeros(1000), difference, words))
    together = paired_bootstrap(*sums)
    assert together.difference == pytest.approx(alone.difference)
    assert together.p > alone.p


# ------------------------------------------------------------------------------------ intervals


def spoken_by(speakers: list[str | None]) -> Evaluation:
    """An utterance of ten words for each speaker, some of them wrong."""
    rng = np.random.default_rng(0)
    references = ["a b c d e f g h i j"] * len(speakers)
    hypotheses = [" ".join(w for w in r.split() if rng.random() > 0.2) for r in references]
    return evaluation(list(zip(references, hypotheses, strict=True)), speaker=list(speakers))


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


def test_drawing_utterances_of_few_speakers_would_cover_less() -> None:
    """Why speakers are drawn: with 20 of 30 utterances each, one by one is far too sure."""
    rng = np.random.default_rng(0)
    hits = {"speaker": 0, "utterance": 0}
    for _ in range(150):
        rates = np.repeat(rng.beta(4, 16, size=20), 30)
        counts = np.stack([rng.binomial(10, rates), np.full(600, 10)], axis=1).astype(float)
        for kind, labels in (("speaker", np.repeat(np.arange(20), 30)), ("utterance", range(600))):
            units = group_sums(counts, list(labels))
            (found,) = intervals(units[:, :1], units[:, 1:], 200, rng)
            assert found is not None
            hits[kind] += found[0] <= 0.2 <= found[1]
    assert hits["speaker"] / 150 > 0.9
    assert hits["utterance"] / 150 < 0.75


def test_the_same_records_give_the_same_intervals_and_each_holds_its_figure() -> None:
    found = spoken_by([f"s{i % 12}" for i in range(120)])
    drawn = bootstrap(found)
    assert drawn == bootstrap(found)
    assert set(drawn.intervals) == set(FIGURES)
    values = {
        "wer": found.score.wer, "cer": found.score.cer, "rtfx": found.rtfx,
        "sentence_error_rate": found.score.sentence_error_rate,
        "deletion_rate": found.score.words.deletions / found.score.words.reference,
    }  # fmt: skip
    for name, value in values.items():
        interval = drawn.intervals[name]
        assert interval is not None
        assert value is not None
        assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9


@pytest.mark.parametrize(
    ("speakers", "unit", "units"),
    [
        ([None] * 6, "utterance", 6),
        (["a", "b", "c"] * 2, "speaker", 3),
        (["a", "a", "a", "b", None, None], "speaker or utterance", 4),
        (["a"] * 6, "utterance", 6),
    ],
)
def test_speakers_are_drawn_where_they_are_known(
    speakers: list[str | None], unit: str, units: int
) -> None:
    drawn = bootstrap(spoken_by(speakers))
    assert (drawn.unit, drawn.units) == (unit, units)


def test_speakers_of_two_sources_are_two() -> None:
    found = spoken_by(["a"] * 4)
    records = tuple(replace(r, source=f"s{i % 2}") for i, r in enumerate(found.records))
    assert bootstrap(replace(found, records=records)).units == 2


def test_what_cannot_be_known_has_no_interval() -> None:
    drawn = bootstrap(evaluation([("", "noise"), ("", "")]))
    assert drawn.intervals["wer"] is None
    assert drawn.intervals["cer"] is None
    assert drawn.intervals["sentence_error_rate"] is not None
    assert bootstrap(evaluation([])).intervals["wer"] is None
    assert set(bootstrap(spoken_by([None])).intervals.values()) == {None}


# ----------------------------------------------------------------------------------- breakdown


@pytest.mark.parametrize("kind", BREAKDOWNS)
def test_the_parts_add_up_to_the_whole_without_failures(kind: str) -> None:
    whole = random_evaluation(200)
    found = divide(whole, kind)
    assert len(found) > 1
    assert sum((p.score.words for p in found.values()), Counts()) == whole.score.words
    assert sorted(int(r.id) for p in found.values() for r in p.records) == list(range(200))
    rows = breakdown(whole, kind)
    assert list(rows) == list(found)
    failed = replace(whole, records=(failure("x"), *whole.records), scores=(None, *whole.scores))
    assert breakdown(failed, kind) == rows


@pytest.mark.parametrize(
    ("value", "name"),
    [(0.0, "0 to 2 s"), (2.0, "2 to 5 s"), (4.999, "2 to 5 s"), (30.0, "30 s and more")],
)
def test_a_bin_holds_its_lower_edge(value: float, name: str) -> None:
    assert bin_name(value) == name


def test_bins_come_in_order() -> None:
    found = divide(random_evaluation(300), "duration")
    assert list(found) == [bin_name(seconds) for seconds in (0.0, 2.0, 5.0, 10.0, 20.0, 30.0)]


# --------------------------------------------------------------------------------- calibration


def test_ece_is_small_for_a_model_that_knows_and_large_for_one_that_boasts() -> None:
    rng = random.Random(0)
    chances = [rng.random() for _ in range(2000)]
    pairs = [("a b", "a b" if rng.random() < chance else "a c") for chance in chances]
    honest = calibration(evaluation(pairs, logprob=[float(np.log(c)) for c in chances]))
    boasting = calibration(evaluation(pairs, logprob=[-0.01] * len(pairs)))
    assert honest["ece"] < 0.04
    assert boasting["ece"] == pytest.approx(0.49, abs=0.03)
    assert honest["auroc"] == pytest.approx(5 / 6, abs=0.03)
    assert boasting["auroc"] == 0.5
    assert sum(row["utterances"] for row in honest["bins"]) == 2000


def test_ece_equals_the_definition() -> None:
    confidence = [0.95, 0.92, 0.55, 0.52, 1.0]
    right = [True, False, True, False, True]
    pairs = [("a", "a" if r else "b") for r in right]
    found = calibration(evaluation(pairs, logprob=[float(np.log(c)) for c in confidence]))
    high, low = abs(2 / 3 - (0.95 + 0.92 + 1.0) / 3), abs(1 / 2 - (0.55 + 0.52) / 2)
    assert found["ece"] == pytest.approx(3 / 5 * high + 2 / 5 * low)


def test_without_log_probabilities_there_is_no_calibration() -> None:
    found = calibration(evaluation([("a", "a")]))
    assert (found["utterances"], found["ece"], found["bins"]) == (0, None, [])
