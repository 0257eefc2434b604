"""The cliff detector on curves of known shape, with and without noise."""

from __future__ import annotations

import numpy as np
import pytest

from tiny_audio.train.diagnosis import Cliff, Phase, find_cliff

GUESS = 6.2  # nats a token, about that of English in Qwen3's tokens
POINTS = 300


def plateau_and_drop(at: int, width: int, *, deaf: float = 4.2, low: float = 1.2) -> np.ndarray:
    """First fall to what guessing costs, a plateau, a drop around point ``at``, slow progress."""
    t = np.arange(POINTS, dtype=float)
    guessing = deaf + 6 * np.exp(-t / 3)
    share = 1 / (1 + np.exp(np.clip(-(t - at) / (width / 4), -50, 50)))
    hearing = low * (1 - 0.3 * np.clip((t - at) / POINTS, 0, 1))
    return np.exp((1 - share) * np.log(guessing) + share * np.log(hearing))


def look(curve: np.ndarray, *, noise: float = 0.0, wer: float | None = None) -> Cliff:
    rng = np.random.default_rng(1)
    losses = curve * np.exp(noise * rng.standard_normal(len(curve)))
    steps = [10 * (i + 1) for i in range(len(curve))]
    return find_cliff(steps, losses.tolist(), guess_loss=GUESS, wer=wer)


def looks(curve: np.ndarray, noise: float) -> list[Cliff]:
    """What it says after each point."""
    return [look(curve[: n + 1], noise=noise) for n in range(len(curve))]


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.12])
@pytest.mark.parametrize(("at", "width"), [(20, 4), (100, 10), (150, 4), (150, 20), (220, 12)])
def test_a_cliff_is_awaited_seen_falling_and_placed(at: int, width: int, noise: float) -> None:
    said = looks(plateau_and_drop(at, width), noise)
    phases = [cliff.phase for cliff in said]
    assert all(phase is Phase.BEFORE for phase in phases[: at - width])
    assert Phase.FALLING in phases[at - width : at + width + 4]
    assert all(phase is Phase.PASSED for phase in phases[at + width + 6 :])
    for cliff in said[at + width + 10 :]:
        assert cliff.sudden
        assert cliff.step is not None
        assert abs(cliff.step - 10 * at) <= max(30, 10 * width)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.12])
def test_without_a_cliff_there_is_none(noise: float) -> None:
    plateau = plateau_and_drop(10**6, 10)
    # A fall that waits for the warmup, from 11 to guessing, is not the cliff either.
    warmup = np.concatenate([np.full(8, 11.0), np.geomspace(11, 4.2, 6), np.full(200, 4.2)])
    untrained = np.full(200, 11.0)
    for curve in (plateau, warmup, untrained):
        assert all(cliff.phase is Phase.BEFORE for cliff in looks(curve, noise))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.12])
def test_an_immediate_descent_is_passed_but_no_cliff(noise: float) -> None:
    curve = 0.3 + 11 * np.exp(-np.arange(200) / 8)
    said = looks(curve, noise)
    assert said[-1].phase is Phase.PASSED
    assert not any(cliff.sudden for cliff in said)
    assert said[-1].step is not None
    assert 100 <= said[-1].step <= 250


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.12])
def test_an_even_descent_is_no_cliff(noise: float) -> None:
    cliff = look(np.linspace(5, 0.8, POINTS), noise=noise)
    assert cliff.phase is Phase.PASSED
    assert not cliff.sudden


def test_a_single_low_batch_is_no_cliff() -> None:
    curve = plateau_and_drop(10**6, 10)
    curve[[100, 150, 200]] = 0.5
    assert all(cliff.phase is Phase.BEFORE for cliff in looks(curve, 0.05))


def test_a_fall_that_stops_half_way_is_not_passed() -> None:
    stuck = np.concatenate([np.full(100, 4.2), np.geomspace(4.2, 2.8, 10), np.full(100, 2.8)])
    phases = [cliff.phase for cliff in looks(stuck, 0.05)]
    assert Phase.PASSED not in phases
    assert Phase.FALLING in phases
    assert phases[-1] is Phase.BEFORE


def test_a_run_that_diverges_has_not_passed() -> None:
    curve = np.concatenate([plateau_and_drop(100, 10)[:200], np.geomspace(1, 9, 20)])
    assert look(curve[:200]).phase is Phase.PASSED
    assert look(np.concatenate([curve, np.full(30, 9.0)])).phase is Phase.BEFORE


def test_the_error_rate_has_the_last_word() -> None:
    low, stuck = plateau_and_drop(100, 10), np.full(100, 3.5)
    assert look(low, wer=0.98).phase is not Phase.PASSED
    assert look(stuck).phase is Phase.BEFORE
    assert look(stuck, wer=0.3).phase is Phase.PASSED


def test_other_tokens_have_another_scale() -> None:
    """Characters: guessing by frequency costs 2.9 nats, from the text so far 1.5."""
    curve = plateau_and_drop(150, 10, deaf=1.5, low=0.4)
    steps = [10 * (i + 1) for i in range(POINTS)]
    before = find_cliff(steps[:140], curve[:140].tolist(), guess_loss=2.9)
    after = find_cliff(steps, curve.tolist(), guess_loss=2.9)
    assert before.phase is Phase.BEFORE
    assert after.phase is Phase.PASSED
    assert after.sudden


@pytest.mark.parametrize("losses", [[], [5.0], [0.0] * 50, [5.0, float("inf")] * 10])
def test_odd_curves_do_not_break_it(losses: list[float]) -> None:
    steps = list(range(len(losses)))
    for guess_loss, wer in ((GUESS, None), (0.0, 0.1)):
        assert find_cliff(steps, losses, guess_loss=guess_loss, wer=wer).phase in Phase
