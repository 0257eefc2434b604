"""Every figure of an evaluation, ready for JSON: what summary.json holds."""

from __future__ import annotations

from typing import Any

from tiny_audio.evaluate.bootstrap import FIGURES, Bootstrap, bootstrap
from tiny_audio.evaluate.breakdown import BREAKDOWNS, breakdown
from tiny_audio.evaluate.calibration import calibration
from tiny_audio.evaluate.hallucination import hallucination
from tiny_audio.evaluate.records import Evaluation
from tiny_audio.text.scoring import get_rule

EXAMPLES = 5  # messages kept of each reason of failure


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of the whole, of each set, and of its parts by BREAKDOWNS.

    primary: the figure to compare by under this scoring rule, ``wer`` or ``cer``. intervals: of
    95 %; those of the three counts are for as many reference words as there are.
    """
    return {
        **figures(evaluation),
        "failure_messages": _messages(evaluation),
        "sets": {name: figures(part) for name, part in _sets(evaluation).items()},
        "breakdown": {kind: breakdown(evaluation, kind) for kind in BREAKDOWNS},
        "hallucination": hallucination(evaluation),
        "calibration": calibration(evaluation),
    }


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Counts, rates and their intervals."""
    drawn = bootstrap(evaluation)
    counted = evaluation.summary()
    words = evaluation.score.reference_words
    rates = {
        "substitution_rate": evaluation.score.substitutions / words if words else None,
        "deletion_rate": evaluation.score.deletions / words if words else None,
        "insertion_rate": evaluation.score.insertions / words if words else None,
    }
    return {
        **counted,
        **rates,
        "primary": get_rule(evaluation.score.rule).primary,
        "intervals": _intervals(drawn, words),
        "bootstrap": {
            "level": drawn.level,
            "resamples": drawn.resamples,
            "seed": drawn.seed,
            "unit": drawn.unit,
            "units": drawn.units,
        },
    }


def _intervals(drawn: Bootstrap, words: int) -> dict[str, list[float] | None]:
    found = {name: _listed(drawn.intervals[name]) for name in FIGURES}
    for count, rate in (
        ("substitutions", "substitution_rate"),
        ("deletions", "deletion_rate"),
        ("insertions", "insertion_rate"),
    ):
        interval = found[rate]
        found[count] = None if interval is None else [words * end for end in interval]
    return found


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _sets(evaluation: Evaluation) -> dict[str, Evaluation]:
    return evaluation.by(lambda record: record.set or record.source)


def _messages(evaluation: Evaluation) -> dict[str, list[str]]:
    """reason -> some of the failed utterances, and what was wrong with them."""
    found: dict[str, list[str]] = {}
    for record in evaluation.records:
        if record.error is not None:
            some = found.setdefault(record.error, [])
            if len(some) < EXAMPLES:
                some.append(f"{record.source}/{record.id}: {record.message or record.error}")
    return found
