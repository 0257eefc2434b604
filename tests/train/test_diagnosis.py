"""Each note comes when its sign is there, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from tiny_audio.train.diagnosis import read_notes

GUESS = 6.2


def train(step: int, loss: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": loss, "grad_norm_max": 1.0, **more}


def evaluation(step: int, loss: float, wer: float = 0.3) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "eval_loss": loss, "wer": wer, "cer": 0.1}


def keys(rows: list[dict[str, Any]]) -> set[str]:
    return set(read_notes(rows, GUESS))


def note(rows: list[dict[str, Any]], key: str) -> str:
    return read_notes(rows, GUESS)[key]


def test_nothing_is_said_of_nothing() -> None:
    assert read_notes([], GUESS) == {}
    assert keys([train(10, 9.0)]) == set()


def test_a_plateau_is_explained_with_its_numbers() -> None:
    rows = [train(10 * i, 4.2) for i in range(1, 20)]
    text = note(rows, "cliff-before")
    assert "loss 4.20" in text
    assert "6.20" in text
    assert "normal" in text


def test_a_cliff_is_not_denied_while_the_loss_has_just_come_down() -> None:
    """What a quickstart logged: the even start of its drop looked like a slope at step 50."""
    falling = [3.941, 3.019, 3.262, 2.75, 2.654, 2.547, 2.212, 1.869, 1.435, 1.116, 0.726, 0.695]
    low = [0.44, 0.48, 0.441, 0.457, 0.425, 0.402, 0.437, 0.346, 0.467, 0.374, 0.355, 0.351]
    rows = [train(5 * (i + 1), loss) for i, loss in enumerate(falling + low)]
    said = [text for n in range(1, len(rows)) for text in read_notes(rows[:n], 5.52).values()]
    assert any("cliff was passed" in text for text in said)
    assert not any("no cliff" in text for text in said)


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
    assert "overfitting" not in keys(falling + rising)  # one evaluation is no trend
    text = note([*falling, *rising, evaluation(400, 1.4)], "overfitting")
    assert "since step 200" in text
    assert "from 1.200 to 1.400" in text
    level = [train(i, 2.0) for i in range(1, 401)]
    assert "overfitting" not in keys([*level, *rising, evaluation(400, 1.4)])
    assert "overfitting" not in keys([*falling, *rising, evaluation(400, 1.21)])


@pytest.mark.parametrize(("norm", "said"), [(9.0, False), (100.0, False), (101.0, True)])
def test_a_gradient_norm_above_100_is_unstable(norm: float, said: bool) -> None:
    assert ("unstable" in keys([train(1, grad_norm_max=norm)])) == said


@pytest.mark.parametrize(
    ("output", "word"),
    [(0.03, None), (0.2, None), (0.004, None), (0.31, "louder"), (1e-3, "quieter")],
)
def test_a_tenfold_drift_of_scale_is_said(output: float, word: str | None) -> None:
    rows = [train(1, projector_output_rms=output, embedding_rms=0.03)]
    assert ("scale" in keys(rows)) == (word is not None)
    if word is not None:
        assert word in note(rows, "scale")


def test_a_dead_expert_is_named_once_it_stays_dead() -> None:
    shares = {"projector_share_0": 0.5, "projector_share_1": 0.499, "projector_share_2": 0.001}
    others = {"projector_share_entropy_ratio": 0.001}
    dead = [train(i, **shares, **others) for i in range(1, 4)]
    assert keys(dead[:2]) == set()
    assert keys(dead) == {"projector_share_2"}
    assert "share_2" in note(dead, "projector_share_2")
    alive = train(4, **(shares | {"projector_share_2": 0.2}))
    assert keys([*dead, alive]) == set()
