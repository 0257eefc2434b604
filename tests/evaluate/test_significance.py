"""The tests of significance err as often as they say, and find differences that are there."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tiny_audio.evaluate.significance import (
    crossing_p,
    draws,
    holm,
    matched_pairs,
    paired_bootstrap,
    segments,
)
from tiny_audio.evaluate.wer import score

UTTERANCES, WORDS, WER = 2000, 12, 0.10


def simulate(systems: int, ratio: float, seed: int) -> np.ndarray:
    """Error differences (B less A) [utterances, simulations] of two systems on the same speech.

    Each utterance is as hard for the one as for the other (gamma), and each makes its own errors
    on it (Poisson), B `ratio` times as many as A.
    """
    rng = np.random.default_rng(seed)
    hard = rng.gamma(1.0, WORDS * WER, size=(UTTERANCES, systems))
    return (rng.poisson(hard * ratio) - rng.poisson(hard)).astype(np.float32)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    """Drawn once for all simulations, which stay independent of each other given the draws."""
    return np.concatenate(list(draws(UTTERANCES, 1000, seed=7))).astype(np.float32)


def rejected(differences: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Share of simulations with p < 5 %, by bootstrap and by matched pairs."""
    bootstrap = crossing_p(weights @ differences) < 0.05
    matched = np.array([one.p for one in matched_pairs(differences)]) < 0.05
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
    drawn = np.concatenate(list(draws(60, 1000, seed=3))) @ (errors[1] - errors[0])[:, None]
    assert found.p == crossing_p(drawn)[0]
    assert found.difference == (errors[1] - errors[0]).sum() / 600
    assert found.interval[0] < found.difference < found.interval[1]
    assert found == paired_bootstrap(*errors, words, resamples=1000, seed=3)
    turned = paired_bootstrap(*errors[::-1], words, resamples=1000, seed=3)
    assert (turned.difference, turned.p) == (-found.difference, found.p)


def test_draws_are_with_replacement_and_even() -> None:
    weights = np.concatenate(list(draws(50, 4000, seed=0)))
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
    assert matched_pairs(np.zeros((30, 1)))[0].p == 1.0
    assert matched_pairs(np.zeros((0, 1)))[0].p == 1.0


def test_matched_pairs_is_the_paired_z_test() -> None:
    differences = np.random.default_rng(1).normal(0.2, 1.0, size=200)
    found = matched_pairs(differences[:, None])[0]
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
