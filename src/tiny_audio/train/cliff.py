"""The cliff: the short stretch of training in which the model begins to hear.

A projector that tells the decoder nothing leaves it with guessing from the text so far. The loss
first falls to what such guessing costs and stays there, for hundreds or thousands of steps, until
the decoder makes out words in the audio; then the loss drops within about a hundred steps, and
improves slowly from there.

How low guessing can get depends on the tokens, so it is measured against ``guess_loss``: the cost
of guessing tokens by their frequency alone (the entropy of the labels). A good language model
that hears nothing needs about half of it (for Qwen3's tokens some 3.5 of 6.2 nats; for single
characters 1.2 to 1.6 of 2.9), and one that hears needs a small part.

Everything here is a pure function of the curve, recomputed at each look: nothing to save.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

HEARS = 0.35  # of guess_loss: below this, words must come from the audio
DEAF = 0.62  # of guess_loss: what guessing from the text so far costs at most, once learned
MIN_POINTS = 6  # fewer are no curve
SMOOTH_POINTS = 5  # running median, so that one odd batch counts for nothing
FALL = math.log(1.25)  # a drop from the plateau that noise does not make
GIBBERISH_WER = 0.9  # at least this, for a model that does not hear
HEARING_WER = 0.6  # at most this: nobody guesses four words in ten


class Phase(Enum):
    """Where training stands."""

    BEFORE = "before"
    FALLING = "falling"
    PASSED = "passed"


@dataclass(frozen=True)
class Cliff:
    """Where training stands, and for a cliff that is passed, where it was.

    ``step`` is the middle of the drop. ``sudden`` is False where the loss came down at once or
    evenly, with no plateau before it.
    """

    phase: Phase
    step: int | None = None
    sudden: bool = False


def find_cliff(
    steps: Sequence[int],
    losses: Sequence[float],
    *,
    guess_loss: float,
    wer: float | None = None,
) -> Cliff:
    """Read the phase off a training curve.

    Args:
        steps: at which the losses were logged, ascending.
        losses: training cross-entropy per token, each the mean since the one before.
        guess_loss: cost per token of guessing by frequency.
        wer: newest word error rate, if any: while it says gibberish, nothing is passed.
    """
    if len(losses) < MIN_POINTS or not np.isfinite(losses).all():
        return Cliff(Phase.BEFORE)
    curve = _smoothed(losses)
    hears = curve[-1] < HEARS * guess_loss and not (wer is not None and wer >= GIBBERISH_WER)
    if hears or (wer is not None and wer <= HEARING_WER):
        # Where it was low first, and not in one dip long ago: never far above it since.
        level = max(HEARS * guess_loss, 1.1 * float(curve[-1]))
        high = np.flatnonzero(curve >= level)
        first_low = min(int(high[-1]) + 1, len(curve) - 1) if high.size else 0
        return _passed(steps, curve, first_low)
    return Cliff(Phase.FALLING if _is_falling(curve, guess_loss) else Phase.BEFORE)


def _smoothed(losses: Sequence[float]) -> np.ndarray:
    """Running median of the last points [N] -> [N], so that the newest value needs no future."""
    values = np.asarray(losses, dtype=float)
    windows = [values[max(0, i + 1 - SMOOTH_POINTS) : i + 1] for i in range(len(values))]
    return np.array([np.median(window) for window in windows])


def _is_falling(curve: np.ndarray, guess_loss: float) -> bool:
    """Whether the newest points lie well below a plateau of guessing just before them.

    The first fall, from the noise of an untrained projector down to guessing, is none: it ends
    above what a model that hears would need, and no plateau precedes it.
    """
    recent = max(3, len(curve) // 8)
    plateau, now = curve[-3 * recent : -recent], curve[-1]
    if len(plateau) < 3 or now > DEAF * guess_loss:
        return False
    level = float(np.median(plateau))
    return math.log(level / max(float(now), 1e-9)) > FALL


def _passed(steps: Sequence[int], curve: np.ndarray, first_low: int) -> Cliff:
    """Place the drop that led down to the first point at which the model hears."""
    reach = max(3, first_low // 4)  # a drop that takes longer than this is a slope, not a cliff
    before = curve[max(0, first_low - 2 * reach - SMOOTH_POINTS) : first_low - reach + 1]
    if first_low < MIN_POINTS or len(before) < 3:
        return Cliff(Phase.PASSED, int(steps[first_low]), sudden=False)
    after = curve[first_low : first_low + reach]
    top, bottom = float(np.median(before)), float(np.median(after))
    drop = math.log(max(top, 1e-9) / max(bottom, 1e-9))
    if drop <= FALL:
        return Cliff(Phase.PASSED, int(steps[first_low]), sudden=False)
    # Indices at which the drop has one sixth, half and five sixths behind it, on a log scale.
    start, crossed, end = (
        int(np.flatnonzero(curve[: first_low + reach] > top * math.exp(-share * drop))[-1])
        for share in (1 / 6, 1 / 2, 5 / 6)
    )
    half = len(before) // 2
    slope = math.log(max(np.median(before[:half]), 1e-9) / max(np.median(before[half:]), 1e-9))
    short = end - start <= max(SMOOTH_POINTS, crossed // 6)
    sudden = drop > 2 * FALL and slope < 0.35 * drop and short
    # A running median of n points turns n // 2 points late.
    place = max(0, crossed - SMOOTH_POINTS // 2) if sudden else first_low
    return Cliff(Phase.PASSED, int(steps[place]), sudden)
