"""Each note comes when its sign is there, and not otherwise; the cliff on curves of known shape."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from tiny_audio.train.diagnosis import Cliff, find_cliff, read_notes

GUESS = 6.2


def train(step: int, loss: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": loss, "grad_norm_max": 1.0, **more}


def evaluation(step: int, loss: float, wer: float = 0.3) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "eval_loss": loss, "wer": wer, "cer": 0.1}


def notes(*rows: dict[str, Any]) -> dict[str, str]:
    return read_notes(rows, GUESS)


def test_a_plateau_is_explained_with_its_numbers() -> None:
    assert notes() == notes(train(10, 9.0)) == {}
    text = notes(*(train(10 * i, 4.2) for i in range(1, 20)))["cliff-before"]
    assert all(part in text for part in ("loss 4.20", "6.20", "normal"))


@pytest.mark.parametrize(
    ("wer", "loss", "key"),
    [
        (0.80, 2.0, "start-worse"),
        (0.74, 2.0, None),  # within 10 % of 0.72
        (0.72, 2.1, "start-worse"),
        (0.72, 2.05, None),
        (0.80, 1.0, "start-worse"),  # capitals are learned and the words forgotten
        (0.74, 1.0, None),  # they do not agree
        (0.57, 2.0, "start-better"),
        (0.70, 1.5, "start-better"),
    ],
)
def test_a_run_from_trained_weights_is_compared_with_its_start(
    wer: float, loss: float, key: str | None
) -> None:
    rows = [evaluation(0, 2.0, 0.72), *(train(i, 4.2) for i in range(1, 50))]
    assert read_notes(rows, GUESS, from_scratch=False) == {}
    rows.append(evaluation(50, loss, wer))
    found = read_notes(rows, GUESS, from_scratch=False)
    assert list(found) == [key] * (key is not None)
    if key == "start-worse":
        assert f"WER {wer:.1%} after 72.0%" in found[key]
        assert "data.labels.case=lower" in found[key]


def test_overfitting_is_a_rising_evaluation_loss_under_a_falling_training_loss() -> None:
    falling = [train(i, 2.0 - i / 500) for i in range(1, 401)]
    rising = [evaluation(100, 1.5), evaluation(200, 1.2), evaluation(300, 1.3)]
    assert "overfitting" not in notes(*falling, *rising)  # one evaluation is no trend
    text = notes(*falling, *rising, evaluation(400, 1.4))["overfitting"]
    assert "since step 200" in text
    assert "from 1.200 to 1.400" in text
    level = [train(i, 2.0) for i in range(1, 401)]
    assert "overfitting" not in notes(*level, *rising, evaluation(400, 1.4))
    assert "overfitting" not in notes(*falling, *rising, evaluation(400, 1.21))


@pytest.mark.parametrize(("norm", "said"), [(9.0, False), (100.0, False), (101.0, True)])
def test_a_gradient_norm_above_100_is_unstable(norm: float, said: bool) -> None:
    assert ("unstable" in notes(train(1, grad_norm_max=norm))) == said


def test_a_dead_expert_is_named_once_it_stays_dead() -> None:
    shares = {"projector_share_0": 0.5, "projector_share_1": 0.499, "projector_share_2": 0.001}
    dead = [train(i, **shares, projector_share_entropy_ratio=0.001) for i in range(1, 4)]
    assert notes(*dead[:2]) == {}
    assert list(notes(*dead)) == ["projector_share_2"]
    assert "share_2" in notes(*dead)["projector_share_2"]
    assert notes(*dead, train(4, **(shares | {"projector_share_2": 0.2}))) == {}


POINTS = 300


def plateau_and_drop(at: int, width: int, *, deaf: float = 4.2, low: float = 1.2) -> np.ndarray:
    """First fall to what guessing costs, a plateau, a drop around point ``at``, slow progress."""
    t = np.arange(POINTS, dtype=float)
    guessing = deaf + 6 * np.exp(-t / 3)
    share = 1 / (1 + np.exp(np.clip(-(t - at) / (width / 4), -50, 50)))
    hearing = low * (1 - 0.3 * np.clip((t - at) / POINTS, 0, 1))
    return np.exp((1 - share) * np.log(guessing) + share * np.log(hearing))


def look(
    curve: np.ndarray, *, noise: float = 0.0, wer: float | None = None, guess_loss: float = GUESS
) -> Cliff:
    rng = np.random.default_rng(1)
    losses = curve * np.exp(noise * rng.standard_normal(len(curve)))
    return find_cliff(curve_rows(losses, wer), guess_loss)


def curve_rows(losses: Iterable[float], wer: float | None = None) -> list[dict[str, Any]]:
    found = [train(10 * (i + 1), float(loss)) for i, loss in enumerate(losses)]
    return found if wer is None else [*found, evaluation(found[-1]["step"], 1.0, wer)]


def looks(curve: np.ndarray, noise: float) -> list[Cliff]:
    """What it says after each point."""
    return [look(curve[: n + 1], noise=noise) for n in range(len(curve))]


@pytest.mark.parametrize("noise", [0.0, 0.12])
@pytest.mark.parametrize(("at", "width"), [(20, 4), (100, 10), (150, 4), (150, 20), (220, 12)])
def test_a_cliff_is_awaited_seen_falling_and_placed(at: int, width: int, noise: float) -> None:
    said = looks(plateau_and_drop(at, width), noise)
    phases = [cliff.phase for cliff in said]
    assert all(phase == "before" for phase in phases[: at - width])
    assert "falling" in phases[at - width : at + width + 4]
    assert all(phase == "passed" for phase in phases[at + width + 6 :])
    for cliff in said[at + width + 10 :]:
        assert cliff.step is not None
        assert abs(cliff.step - 10 * at) <= max(30, 10 * width)


@pytest.mark.parametrize("noise", [0.0, 0.12])
def test_without_a_cliff_there_is_none(noise: float) -> None:
    plateau = plateau_and_drop(10**6, 10)
    # A fall that waits for the warmup, from 11 to guessing, is not the cliff either.
    warmup = np.concatenate([np.full(8, 11.0), np.geomspace(11, 4.2, 6), np.full(200, 4.2)])
    untrained = np.full(200, 11.0)
    for curve in (plateau, warmup, untrained):
        assert all(cliff.phase == "before" for cliff in looks(curve, noise))


@pytest.mark.parametrize("noise", [0.0, 0.12])
def test_an_immediate_or_even_descent_is_passed_too(noise: float) -> None:
    phase, step = look(0.3 + 11 * np.exp(-np.arange(200) / 8), noise=noise)
    assert phase == "passed"
    assert step is not None
    assert 100 <= step <= 250
    assert look(np.linspace(5, 0.8, POINTS), noise=noise).phase == "passed"


def test_a_single_low_batch_is_no_cliff() -> None:
    curve = plateau_and_drop(10**6, 10)
    curve[[100, 150, 200]] = 0.5
    assert all(cliff.phase == "before" for cliff in looks(curve, 0.05))


def test_a_fall_that_stops_half_way_is_not_passed() -> None:
    stuck = np.concatenate([np.full(100, 4.2), np.geomspace(4.2, 2.8, 10), np.full(100, 2.8)])
    phases = [cliff.phase for cliff in looks(stuck, 0.05)]
    assert "passed" not in phases
    assert "falling" in phases
    assert phases[-1] == "before"


def test_a_run_that_diverges_has_not_passed() -> None:
    curve = np.concatenate([plateau_and_drop(100, 10)[:200], np.geomspace(1, 9, 20)])
    assert look(curve[:200]).phase == "passed"
    assert look(np.concatenate([curve, np.full(30, 9.0)])).phase == "before"


def test_the_error_rate_has_the_last_word() -> None:
    low, stuck = plateau_and_drop(100, 10), np.full(100, 3.5)
    assert look(low, wer=0.98).phase != "passed"
    assert look(stuck).phase == "before"
    assert look(stuck, wer=0.3).phase == "passed"


def test_other_tokens_have_another_scale() -> None:
    """Characters: guessing by frequency costs 2.9 nats, from the text so far 1.5."""
    curve = plateau_and_drop(150, 10, deaf=1.5, low=0.4)
    assert look(curve[:140], guess_loss=2.9).phase == "before"
    assert look(curve, guess_loss=2.9).phase == "passed"


@pytest.mark.parametrize("losses", [[], [5.0], [0.0] * 50, [5.0, float("inf")] * 10])
def test_odd_curves_do_not_break_it(losses: list[float]) -> None:
    for guess_loss in (GUESS, 0.0):
        found = find_cliff(curve_rows(losses), guess_loss)
        assert found.phase in ("before", "falling", "passed")
