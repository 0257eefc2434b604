"""What the metrics of a run say about it: pure functions of the rows of metrics.jsonl.

The cliff is the short stretch of training in which the model begins to hear. A projector that tells
the decoder nothing leaves it with guessing from the text so far: the loss falls to what that costs
and stays there for hundreds or thousands of steps; then it drops within about a hundred.

How low guessing can get depends on the tokens, so it is measured against ``guess_loss``: the cost
of guessing tokens by their frequency alone (the entropy of the labels). A good language model that
hears nothing needs about half of it (for Qwen3's tokens some 3.5 of 6.2 nats; for single characters
1.2 to 1.6 of 2.9), and one that hears needs a small part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tiny_audio.model.projectors.base import DEAD_BELOW

Row = Mapping[str, Any]

HEARS = 0.35  # of guess_loss: below this, words must come from the audio
DEAF = 0.62  # of guess_loss: what guessing from the text so far costs at most, once learned
MIN_POINTS = 6  # fewer are no curve
SMOOTH_POINTS = 5  # running median, so that one odd batch counts for nothing
FALL = math.log(1.25)  # a drop from the plateau that noise does not make
GIBBERISH_WER = 0.9  # at least this, for a model that does not hear
HEARING_WER = 0.6  # at most this: nobody guesses four words in ten
UNSTABLE_NORM = 100.0  # gradient norm, before clipping; a steady run stays below 10
OVERFIT_RISE = 1.03  # evaluation loss over its lowest, as a factor
OVERFIT_EVALUATIONS = 2  # evaluations since the lowest
START_LOSS = 0.03  # change of the evaluation loss since the start that is clear, as a share
START_WER, START_WER_SHARE = 0.02, 0.1  # of the WER: over both, points and share of the start's
DEAD_ROWS = 3  # logged rows in a row, so that one odd batch is no death


def read_notes(
    rows: Sequence[Row], guess_loss: float, *, from_scratch: bool = True
) -> dict[str, str]:
    """What the newest rows say, first of the cliff: texts by what they are about.

    A run that does not begin ``from_scratch`` is compared with its start instead.
    """
    train = [row for row in rows if row["kind"] == "train"]
    evals = [row for row in rows if row["kind"] == "eval"]
    if not train:
        return {}
    notes = _about_cliff(rows, train, guess_loss) if from_scratch else _about_start(evals)
    norm = train[-1].get("grad_norm_max", 0.0)
    if norm > UNSTABLE_NORM:
        notes["unstable"] = (
            f"Unstable: the gradient norm reached {norm:.0f} (below 10 is steady, above "
            f"{UNSTABLE_NORM:.0f} is not). If it stays there, lower training.learning_rate or "
            "lengthen training.warmup_steps."
        )
    return notes | _overfitting(train, evals) | _dead_experts(train[-DEAD_ROWS:])


def start_of(rows: Sequence[Row]) -> Row | None:
    """The evaluation before the first step, None where the run began from scratch."""
    return next((row for row in rows if row["kind"] == "eval" and row["step"] == 0), None)


def _about_cliff(rows: Sequence[Row], train: Sequence[Row], guess_loss: float) -> dict[str, str]:
    cliff, loss = cliff_of(rows, guess_loss), f"loss {train[-1]['loss']:.2f}"
    text = ""
    if cliff.phase == "falling":
        text = f"The cliff: {loss} and falling now. The decoder begins to hear."
    elif cliff.phase == "before" and len(train) >= MIN_POINTS:
        text = (
            f"Still before the cliff: {loss}, and guessing by word frequency alone costs "
            f"{guess_loss:.2f}. The text is gibberish until the loss drops; that is normal."
        )
    elif cliff.sudden:
        text = f"The cliff was passed at step {cliff.step}: {loss}. From here it improves slowly."
    # What has just come down may turn out to have been a cliff.
    elif cliff.step is not None and train[-1]["step"] >= 2 * cliff.step:
        text = (
            f"The decoder hears since step {cliff.step}: {loss}. The loss came down without a "
            "plateau, so there was no cliff to wait for."
        )
    return {f"cliff-{cliff.phase}": text} if text else {}


def _about_start(evals: Sequence[Row]) -> dict[str, str]:
    """Whether the newest evaluation is clearly better or worse than the start; first by WER."""
    start = start_of(evals)
    if start is None or evals[-1] is start:
        return {}
    now, wers = evals[-1], (start["wer"], evals[-1]["wer"])
    change = now["eval_loss"] / start["eval_loss"] - 1
    clearly = abs(change) > START_LOSS
    figures = f"eval loss {now['eval_loss']:.3f} after {start['eval_loss']:.3f}"
    if None not in wers:
        figures = f"WER {wers[1]:.1%} after {wers[0]:.1%}, {figures}"
        by = wers[1] - wers[0]
        if abs(by) > max(START_WER, START_WER_SHARE * wers[0]):
            change, clearly = by, True
        elif by * change < 0:
            return {}  # the two do not agree
    if not clearly:
        return {}
    if change < 0:
        return {"start-better": f"Better than at the start: {figures} at step 0."}
    return {
        "start-worse": f"Worse than at the start: {figures} at step 0. Are the labels written as "
        "the model wrote until now? If not, data.labels.case=lower and data.labels.punctuation="
        "strip make them so; if they are, lower the learning rate."
    }


def _overfitting(train: Sequence[Row], evals: Sequence[Row]) -> dict[str, str]:
    """The evaluation loss rises while the training loss goes on falling."""
    if not evals:
        return {}
    best, now = min(evals, key=lambda row: row["eval_loss"]), evals[-1]
    rises = now["eval_loss"] > OVERFIT_RISE * best["eval_loss"]
    if not rises or sum(row["step"] > best["step"] for row in evals) < OVERFIT_EVALUATIONS:
        return {}
    # Mean training loss of the last rows up to either evaluation.
    then, since = (
        [row["loss"] for row in train if row["step"] <= step][-5:]
        for step in (best["step"], now["step"])
    )
    if not then or np.mean(since) >= np.mean(then):
        return {}
    text = (
        f"Overfitting: since step {best['step']} the evaluation loss rose from "
        f"{best['eval_loss']:.3f} to {now['eval_loss']:.3f} while the training loss fell from "
        f"{np.mean(then):.3f} to {np.mean(since):.3f}. The model memorises; the best checkpoint is "
        "kept. More data, more augmentation or fewer steps help."
    )
    return {"overfitting": text}


def _dead_experts(recent: Sequence[Row]) -> dict[str, str]:
    """Experts that got next to no frames in each of the recent rows."""
    names = [key for key in recent[-1] if re.search(r"_share_\d+$", key)]
    if len(recent) < DEAD_ROWS or not names:
        return {}
    equal = 1 / len(names)
    return {
        name: f"Dead expert: {name.removeprefix('projector_')} is {recent[-1][name]:.1%}, an equal "
        f"share would be {equal:.0%}. It learns nothing any more."
        for name in names
        if all(row.get(name, 1.0) < DEAD_BELOW * equal for row in recent)
    }


# ----------------------------------------------------------------------------------- the cliff


class Cliff(NamedTuple):
    """Where training stands, and for a cliff that is passed, where it was."""

    phase: str  # before, falling or passed
    step: int | None = None  # the middle of the drop
    sudden: bool = False  # else the loss came down at once or evenly, with no plateau before it


def cliff_of(rows: Sequence[Row], guess_loss: float) -> Cliff:
    """Where the run stands before, on or past its cliff."""
    train = [row for row in rows if row["kind"] == "train"]
    wers = [row["wer"] for row in rows if row["kind"] == "eval" and row["wer"] is not None]
    steps, losses = [row["step"] for row in train], [row["loss"] for row in train]
    return find_cliff(steps, losses, guess_loss=guess_loss, wer=wers[-1] if wers else None)


def find_cliff(
    steps: Sequence[int], losses: Sequence[float], *, guess_loss: float, wer: float | None = None
) -> Cliff:
    """Read the phase off a training curve: losses in nats per token at ascending steps.

    ``wer`` is the newest word error rate, if any: while it says gibberish, nothing is passed.
    """
    if len(losses) < MIN_POINTS or not np.isfinite(losses).all():
        return Cliff("before")
    # Running median of the last points, so that the newest value needs no future.
    padded = np.pad(np.asarray(losses, float), (SMOOTH_POINTS - 1, 0), constant_values=np.nan)
    curve = np.nanmedian(sliding_window_view(padded, SMOOTH_POINTS), axis=1)
    hears = curve[-1] < HEARS * guess_loss and not (wer is not None and wer >= GIBBERISH_WER)
    if hears or (wer is not None and wer <= HEARING_WER):
        # Where it was low first, and not in one dip long ago: never far above it since.
        level = max(HEARS * guess_loss, 1.1 * float(curve[-1]))
        high = np.flatnonzero(curve >= level)
        first_low = min(int(high[-1]) + 1, len(curve) - 1) if high.size else 0
        return _passed(steps, curve, first_low)
    return Cliff("falling" if _is_falling(curve, guess_loss) else "before")


def _is_falling(curve: np.ndarray, guess_loss: float) -> bool:
    """Whether the newest points lie well below a plateau of guessing just before them."""
    recent = max(3, len(curve) // 8)
    plateau, now = curve[-3 * recent : -recent], curve[-1]
    if len(plateau) < 3 or now > DEAF * guess_loss:
        return False
    return _log_ratio(np.median(plateau), now) > FALL


def _passed(steps: Sequence[int], curve: np.ndarray, first_low: int) -> Cliff:
    """Place the drop that led down to the first point at which the model hears."""
    reach = max(3, first_low // 4)  # a drop that takes longer than this is a slope, not a cliff
    before = curve[max(0, first_low - 2 * reach - SMOOTH_POINTS) : first_low - reach + 1]
    gradual = Cliff("passed", int(steps[first_low]))
    if first_low < MIN_POINTS or len(before) < 3:
        return gradual
    top = float(np.median(before))
    drop = _log_ratio(top, np.median(curve[first_low : first_low + reach]))
    if drop <= 2 * FALL:
        return gradual
    # Indices at which the drop has one sixth, half and five sixths behind it, on a log scale.
    start, crossed, end = (
        int(np.flatnonzero(curve[: first_low + reach] > top * math.exp(-share * drop))[-1])
        for share in (1 / 6, 1 / 2, 5 / 6)
    )
    half = len(before) // 2
    slope = _log_ratio(np.median(before[:half]), np.median(before[half:]))
    short = end - start <= max(SMOOTH_POINTS, crossed // 6)
    if slope >= 0.35 * drop or not short:
        return gradual
    # A running median of n points turns n // 2 points late.
    return Cliff("passed", int(steps[max(0, crossed - SMOOTH_POINTS // 2)]), sudden=True)


def _log_ratio(top: Any, bottom: Any) -> float:
    return math.log(max(float(top), 1e-9) / max(float(bottom), 1e-9))
