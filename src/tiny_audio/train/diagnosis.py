"""What the metrics of a run say about it: pure functions of the rows of metrics.jsonl.

The cliff is the short stretch of training in which the model begins to hear. Before it the decoder
guesses from the text so far: the loss stays at what that costs for hundreds or thousands of steps.

How low guessing can get depends on the tokens, so it is measured against ``guess_loss``: the cost
of guessing tokens by their frequency alone (the entropy of the labels). A good language model that
hears nothing needs about half of it (for Qwen3's tokens some 3.5 of 6.2 nats; for single characters
1.2 to 1.6 of 2.9), and one that hears needs a small part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Row = Mapping[str, Any]

HEARS = 0.35  # of guess_loss: below this, words must come from the audio
DEAF = 0.62  # of guess_loss: what guessing from the text so far costs at most, once learned
MIN_POINTS = 6  # fewer are no curve
SMOOTH_POINTS = 5  # running median, so that one odd batch counts for nothing
FALL = 0.8  # of the plateau: so low no noise falls
GIBBERISH_WER = 0.9  # at least this, for a model that does not hear
HEARING_WER = 0.6  # at most this: nobody guesses four words in ten
UNSTABLE_NORM = 100.0  # gradient norm, before clipping; a steady run stays below 10
OVERFIT_RISE = 1.03  # evaluation loss over its lowest, as a factor
OVERFIT_EVALUATIONS = 2  # evaluations since the lowest
START_LOSS = 0.03  # change of the evaluation loss since the start that is clear, as a share
START_WER, START_WER_SHARE = 0.02, 0.1  # of the WER: over both, points and share of the start's
DEAD_BELOW = 0.05  # of an even share: an expert that gets less learns next to nothing
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
    (phase, step), loss = find_cliff(rows, guess_loss), f"loss {train[-1]['loss']:.2f}"
    if phase == "before" and len(train) < MIN_POINTS:
        return {}
    text = {
        "before": f"Still before the cliff: {loss}, and guessing by word frequency alone costs "
        f"{guess_loss:.2f}. The text is gibberish until the loss drops; that is normal.",
        "falling": f"The cliff: {loss} and falling now. The decoder begins to hear.",
        "passed": f"Past the cliff: {loss}; the decoder hears since step {step}. From here it "
        "improves slowly.",
    }
    return {f"cliff-{phase}": text[phase]}


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
    return {
        "overfitting": f"Overfitting: since step {best['step']} the evaluation loss rose from "
        f"{best['eval_loss']:.3f} to {now['eval_loss']:.3f} while the training loss fell from "
        f"{np.mean(then):.3f} to {np.mean(since):.3f}. The model memorises; the best checkpoint is "
        "kept. More data, more augmentation or fewer steps help."
    }


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
    """Where training stands, and for a cliff that is passed, where that showed first."""

    phase: str  # before, falling or passed
    step: int | None = None


def find_cliff(rows: Sequence[Row], guess_loss: float) -> Cliff:
    """Read the phase off the rows of a run; ``guess_loss`` is in nats per token, as is the loss.

    While the newest word error rate, if there is one, says gibberish, nothing is passed.
    """
    train = [row for row in rows if row["kind"] == "train"]
    wers = [row["wer"] for row in rows if row["kind"] == "eval" and row["wer"] is not None]
    wer, losses = wers[-1] if wers else None, np.array([row["loss"] for row in train], float)
    if len(losses) < MIN_POINTS or not np.isfinite(losses).all():
        return Cliff("before")
    # Running median of the last points, so that the newest value needs no future.
    padded = np.pad(losses, (SMOOTH_POINTS - 1, 0), constant_values=np.nan)
    curve = np.nanmedian(sliding_window_view(padded, SMOOTH_POINTS), axis=1)
    now, hears_below = float(curve[-1]), HEARS * guess_loss
    hears = now < hears_below and not (wer is not None and wer >= GIBBERISH_WER)
    if hears or (wer is not None and wer <= HEARING_WER):
        # Where it was low first, and not in one dip long ago: never far above it since.
        high = np.flatnonzero(curve >= max(hears_below, 1.1 * now))
        first_low = min(int(high[-1]) + 1, len(curve) - 1) if high.size else 0
        return Cliff("passed", train[first_low]["step"])
    # Falling: the newest points lie well below a plateau of guessing just before them.
    recent = max(3, len(curve) // 8)
    plateau = curve[-3 * recent : -recent]
    fell = len(plateau) >= 3 and now < min(DEAF * guess_loss, FALL * float(np.median(plateau)))
    return Cliff("falling" if fell else "before")
