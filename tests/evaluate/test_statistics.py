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
    holm,
    intervals,
    matched_pairs,
    paired_bootstrap,
    resample,
    segments,
)
from tiny_audio.evaluate.wer import Counts, score

UTTERANCES, WORDS, WER = 2000, 12, 0.10


def simulate(systems: int, ratio: float, seed: int) -> np.ndarray:
    """Error differences (B less A) [utterances, simulations] of two systems on the same speech.

    Each utterance is as hard for the one as for the other (gamma), and each makes its own errors
    on it (Poisson), B `ratio` times as many as A.
    """
    rng = np.random.default_rng(seed)
    hard = rng.gamma(1.0, WORDS * WER, size=(UTTERANCES, systems))
    return (rng.poisson(hard * ratio) - rng.poisson(hard)).astype(np.float32)


def weights_of(units: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate(list(resample(units, resamples, np.random.default_rng(seed))))


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    """Drawn once for all simulations, which stay independent of each other given the draws."""
    return weights_of(UTTERANCES, 1000, seed=7).astype(np.float32)


def rejected(differences: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Share of simulations with p < 5 %, by bootstrap and by matched pairs."""
    bootstrap = crossing_p(weights @ differences) < 0.05
    matched = np.array([matched_pairs(column).p for column in differences.T]) < 0.05
    return float(bootstrap.mean()), float(matched.mean())


def test_equal_systems_differ_in_one_of_twenty_simulations(weights: np.ndarray) -> None:
    for share in rejected(simulate(2500, 1.0, seed=1), weights):
        assert 0.04 < share < 0.06


def test_ten_percent_fewer_errors_are_found(weights: np.ndarray) -> None:
    for share in rejected(simulate(400, 0.9, seed=2), weights):
        assert share > 0.80


def test_the_bootstrap_of_counts_is_that_of_the_simulations() -> None:
    errors = np.random.default_rng(0).poisson(2.0, size=(2, 60)).astype(float)
    words = np.full(60, 10.0)
    found = paired_bootstrap(*errors, words, resamples=1000, seed=3)
    drawn = weights_of(60, 1000, seed=3) @ (errors[1] - errors[0])[:, None]
    assert found.p == crossing_p(drawn)[0]
    assert found.difference == (errors[1] - errors[0]).sum() / 600
    assert found.interval[0] < found.difference < found.interval[1]
    assert found == paired_bootstrap(*errors, words, resamples=1000, seed=3)
    turned = paired_bootstrap(*errors[::-1], words, resamples=1000, seed=3)
    assert (turned.difference, turned.p) == (-found.difference, found.p)


def test_draws_are_with_replacement_and_even() -> None:
    weights = weights_of(50, 4000, seed=0)
    assert weights.shape == (4000, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.08)
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # binomial


def test_units_are_drawn_whole() -> None:
    """Twice the same speaker is no more evidence: with clusters p is larger."""
    rng = np.random.default_rng(4)
    speakers = rng.normal(0.3, 1.0, size=40)
    difference = np.repeat(speakers, 25)
    words = np.full(1000, 10.0)
    alone = paired_bootstrap(np.zeros(1000), difference, words)
    together = paired_bootstrap(
        np.zeros(40), difference.reshape(40, 25).sum(1), words.reshape(40, 25).sum(1)
    )
    assert together.difference == pytest.approx(alone.difference)
    assert together.p > alone.p


def test_the_same_results_twice_differ_in_nothing() -> None:
    errors = np.arange(30.0)
    found = paired_bootstrap(errors, errors, np.full(30, 9.0))
    assert (found.difference, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)
    assert matched_pairs(np.zeros(30)).p == 1.0
    assert matched_pairs(np.zeros(0)).p == 1.0


def test_matched_pairs_is_the_paired_z_test() -> None:
    differences = np.random.default_rng(1).normal(0.2, 1.0, size=200)
    found = matched_pairs(differences)
    assert found.z == pytest.approx(
        differences.mean() / (differences.std(ddof=1) / np.sqrt(len(differences)))
    )
    assert found.segments == 200
    lots = np.abs(np.random.default_rng(2).standard_normal(400_000)) > abs(found.z)
    assert found.p == pytest.approx(lots.mean(), abs=0.003)


def cut(reference: str, one: str, other: str) -> list[tuple[int, int]]:
    scored = score([reference, reference], [one, other], "basic").utterances
    return segments(scored[0].alignment, scored[1].alignment)


def test_segments_are_two_right_words_apart() -> None:
    assert cut("a b c d e f", "x b c d e y", "a b c d e f") == [(1, 0), (1, 0)]
    assert cut("a b c", "x b y", "a b c") == [(2, 0)]  # one right word is too few
    assert cut("a b c d", "x b c y", "a b c d") == [(1, 0), (1, 0)]
    assert cut("a b c d", "x b c d", "a b c y") == [(1, 0), (0, 1)]
    assert cut("a b c d", "x b c y", "a b z d") == [(2, 1)]  # the other has it wrong between
    assert cut("a b c d", "x b c y", "a b new c d") == [(2, 1)]  # inserted between the two
    assert cut("a b", "a b", "a b") == []
    assert cut("", "noise", "") == [(1, 0)]
    with pytest.raises(ValueError, match="references"):
        segments(*(score([t], [t], "basic").utterances[0].alignment for t in ("a", "a b")))


def test_segments_lose_no_error() -> None:
    rng = random.Random(0)
    for _ in range(300):
        reference, *heard = (" ".join(rng.choices("abcd", k=rng.randrange(15))) for _ in range(3))
        scored = score([reference] * 2, heard, "basic").utterances
        pieces = segments(scored[0].alignment, scored[1].alignment)
        sums = [sum(piece[i] for piece in pieces) for i in (0, 1)]
        assert sums == [one.words.errors for one in scored]
        assert all(x or y for x, y in pieces)


def test_holm_multiplies_the_smallest_most() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


# ------------------------------------------------------------------------------------ intervals


def spoken_by(speakers: list[str | None], seed: int = 0) -> Evaluation:
    """An utterance of ten words for each speaker, some of them wrong."""
    rng = np.random.default_rng(seed)
    references = ["a b c d e f g h i j"] * len(speakers)
    hypotheses = [" ".join(w for w in r.split() if rng.random() > 0.2) for r in references]
    return evaluation(list(zip(references, hypotheses, strict=True)), speaker=list(speakers))


def covered(units: int, trials: int, spread: float, seed: int) -> float:
    """Share of simulated sets whose interval holds the true WER.

    Each unit (a speaker) has an error rate of its own around the true 0.2, and says between 20
    and 60 words.
    """
    rng = np.random.default_rng(seed)
    truth, hits = 0.2, 0
    concentration = 1 / spread
    for _ in range(trials):
        words = rng.integers(20, 61, size=units).astype(float)
        rates = rng.beta(truth * concentration, (1 - truth) * concentration, size=units)
        errors = rng.binomial(words.astype(int), rates).astype(float)
        (found,) = intervals(errors[:, None], words[:, None], resamples=400, level=0.95, rng=rng)
        assert found is not None
        hits += found[0] <= truth <= found[1]
    return hits / trials


@pytest.mark.parametrize(("units", "spread"), [(20, 0.05), (60, 0.05), (300, 0.01)])
def test_intervals_cover_the_true_wer_in_95_of_100_sets(units: int, spread: float) -> None:
    assert 0.93 <= covered(units, trials=1500, spread=spread, seed=units) <= 0.97


def test_drawing_utterances_of_few_speakers_would_cover_less() -> None:
    """Why speakers are drawn: with 20 of 30 utterances each, one by one is far too sure."""
    rng = np.random.default_rng(0)
    hits = {"speaker": 0, "utterance": 0}
    for _ in range(300):
        rates = np.repeat(rng.beta(4, 16, size=20), 30)
        words = np.full(600, 10.0)
        errors = rng.binomial(10, rates).astype(float)
        speakers = np.repeat(np.arange(20), 30)
        for kind, labels in (("speaker", speakers), ("utterance", np.arange(600))):
            units = group_sums(np.stack([errors, words], axis=1), labels.tolist())
            (found,) = intervals(units[:, :1], units[:, 1:], resamples=200, level=0.95, rng=rng)
            assert found is not None
            hits[kind] += found[0] <= 0.2 <= found[1]
    assert hits["speaker"] / 300 > 0.9
    assert hits["utterance"] / 300 < 0.75


def test_the_same_seed_gives_the_same_intervals_and_each_holds_its_figure() -> None:
    found = spoken_by([f"s{i % 12}" for i in range(120)])
    drawn = bootstrap(found)
    assert drawn == bootstrap(found)
    assert drawn != bootstrap(found, seed=1)
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


def test_more_utterances_make_it_surer() -> None:
    def width(count: int) -> float:
        interval = bootstrap(spoken_by([None] * count)).intervals["wer"]
        assert interval is not None
        return interval[1] - interval[0]

    assert width(40) / width(640) == pytest.approx(4, rel=0.35)


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


def test_without_words_there_is_no_wer_to_be_sure_of() -> None:
    drawn = bootstrap(evaluation([("", "noise"), ("", "")]))
    assert drawn.intervals["wer"] is None
    assert drawn.intervals["cer"] is None
    assert drawn.intervals["sentence_error_rate"] is not None
    assert bootstrap(evaluation([])).intervals["wer"] is None


def test_one_utterance_says_nothing_of_how_sure_its_figure_is() -> None:
    assert set(bootstrap(spoken_by([None])).intervals.values()) == {None}


# ----------------------------------------------------------------------------------- breakdown


@pytest.mark.parametrize("kind", BREAKDOWNS)
def test_the_parts_add_up_to_the_whole(kind: str) -> None:
    whole = random_evaluation(200)
    found = divide(whole, kind)
    assert len(found) > 1
    assert sum((p.score.words for p in found.values()), Counts()) == whole.score.words
    ids = sorted(int(r.id) for p in found.values() for r in p.records)
    assert ids == list(range(200))
    rows = breakdown(whole, kind)
    assert list(rows) == list(found)
    assert sum(row["utterances"] for row in rows.values()) == 200


def test_failures_belong_to_no_part() -> None:
    whole = random_evaluation(10)
    failed = failure("x")
    with_it = Evaluation((failed, *whole.records), whole.score)
    for kind in BREAKDOWNS:
        assert breakdown(with_it, kind) == breakdown(whole, kind)


@pytest.mark.parametrize(
    ("value", "name"),
    [(0.0, "under 2 s"), (2.0, "2 to 5 s"), (4.999, "2 to 5 s"), (5.0, "5 s and more")],
)
def test_a_bin_holds_its_lower_edge(value: float, name: str) -> None:
    assert bin_name(value, (2.0, 5.0), "s") == name


def test_bins_come_in_order_and_are_what_they_say() -> None:
    whole = random_evaluation(300)
    for name, part in divide(whole, "duration").items():
        lowest = {"under": 0.0}.get(name.split()[0]) or float(name.split()[0].replace("under", "0"))
        assert all(record.duration >= lowest for record in part.records)
    names = list(divide(whole, "duration"))
    assert names[0] == "under 2 s"
    assert names[-1] == "30 s and more"
    assert list(divide(whole, "snr"))[-1] == "unknown"
    assert list(divide(whole, "speaking_rate"))[-1] == "no words"


# --------------------------------------------------------------------------------- calibration


def test_ece_is_small_for_a_model_that_knows_and_large_for_one_that_boasts() -> None:
    rng = random.Random(0)
    chances = [rng.random() for _ in range(4000)]
    pairs = [("a b", "a b" if rng.random() < chance else "a c") for chance in chances]
    honest = calibration(evaluation(pairs, logprob=[float(np.log(c)) for c in chances]))
    boasting = calibration(evaluation(pairs, logprob=[-0.01] * len(pairs)))
    assert honest["ece"] < 0.03
    assert boasting["ece"] == pytest.approx(0.49, abs=0.03)
    assert honest["auroc"] == pytest.approx(5 / 6, abs=0.03)
    assert boasting["auroc"] == 0.5
    assert sum(row["utterances"] for row in honest["bins"]) == 4000


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
