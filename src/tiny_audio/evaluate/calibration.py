"""Whether the model knows when it is right: confidence against correctness of whole utterances.

Confidence is exp(mean log-probability of a token), the geometric mean of the probabilities that
the model gave to its own tokens. An utterance is correct where its hypothesis has no word error
under the scoring rule. In equal-width bins of confidence

    ECE = sum over bins of (utterances in it / all) * |share correct - mean confidence|

(Guo et al. 2017). A mean over tokens is higher than the probability of the whole text, so an ECE
of some tenths is common even of good models; what it is for is to compare models and training.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tiny_audio.evaluate.records import Evaluation

BINS = 10


def calibration(evaluation: Evaluation, bins: int = BINS) -> dict[str, Any]:
    """ECE, the bins it comes from, and what ranks utterances; ready for JSON.

    Utterances without a log-probability (beam search, foreign models) are left out; where none
    remains the figures are None. auroc: the chance that a correct utterance has more confidence
    than a wrong one; None where all are right or all wrong.
    """
    pairs = [
        (np.exp(min(record.logprob, 0.0)), one.words.errors == 0)
        for record, one in zip(evaluation.scored, evaluation.score.utterances, strict=True)
        if record.logprob is not None
    ]
    if not pairs:
        return {"utterances": 0, "ece": None, "auroc": None, "mean_confidence": None,
                "correct": None, "bins": []}  # fmt: skip
    confidence = np.array([c for c, _ in pairs])
    correct = np.array([right for _, right in pairs], dtype=np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows: list[dict[str, Any]] = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        rows.append({
            "low": number / bins,
            "high": (number + 1) / bins,
            "utterances": count,
            "confidence": float(confidence[inside].mean()) if count else None,
            "correct": float(correct[inside].mean()) if count else None,
        })  # fmt: skip
    gaps = [r["utterances"] * abs(r["correct"] - r["confidence"]) for r in rows if r["utterances"]]
    return {
        "utterances": len(pairs),
        "ece": sum(gaps) / len(pairs),
        "auroc": _auroc(confidence, correct > 0),
        "mean_confidence": float(confidence.mean()),
        "correct": float(correct.mean()),
        "bins": rows,
    }


def _auroc(confidence: np.ndarray, correct: np.ndarray) -> float | None:
    """Mann and Whitney's U by the number of pairs; equal confidences count half."""
    right, wrong = int(correct.sum()), int((~correct).sum())
    if not right or not wrong:
        return None
    _, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each distinct value, from 1
    above = ranks[inverse][correct].sum() - right * (right + 1) / 2
    return float(above / (right * wrong))
