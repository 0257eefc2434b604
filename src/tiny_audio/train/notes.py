"""What a learner should know about the run, in plain words: pure functions of its metrics.

Rows are those of metrics.jsonl (see monitor.py). A note holds as long as the newest rows say so;
the monitor decides when to say it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiny_audio.model.projectors.routing import DEAD_BELOW
from tiny_audio.train.cliff import Cliff, Phase, find_cliff

Row = Mapping[str, Any]

UNSTABLE_NORM = 100.0  # gradient norm, before clipping; a steady run stays below 10
OVERFIT_RISE = 1.03  # evaluation loss over its lowest, as a factor
OVERFIT_EVALUATIONS = 2  # evaluations since the lowest
START_LOSS = 0.03  # change of the evaluation loss since the start that is clear, as a share
START_WER, START_WER_SHARE = 0.02, 0.1  # of the WER: over both, points and share of the start's
SCALE_DRIFT = 10.0  # output RMS against the decoder's embeddings, either way
DEAD_ROWS = 3  # logged rows in a row, so that one odd batch is no death


@dataclass(frozen=True)
class Note:
    """One thing to know. ``key`` says what it is about, so that it is not said at every row."""

    key: str
    text: str


def read_notes(rows: Sequence[Row], guess_loss: float, *, from_scratch: bool = True) -> list[Note]:
    """Everything that the metrics so far say, first of the cliff.

    A run that does not begin ``from_scratch`` is compared with its start instead.
    """
    train = [row for row in rows if row["kind"] == "train"]
    evals = [row for row in rows if row["kind"] == "eval"]
    if not train:
        return []
    found = [
        _cliff_note(cliff_of(rows, guess_loss), train[-1], guess_loss, len(train))
        if from_scratch
        else _start_note(evals),
        _unstable(train),
        _overfitting(train, evals),
        _scale(train[-1]),
        *_dead_experts(train),
    ]
    return [note for note in found if note is not None]


def start_of(rows: Sequence[Row]) -> Row | None:
    """The evaluation before the first step, None where the run began from scratch."""
    return next((row for row in rows if row["kind"] == "eval" and row["step"] == 0), None)


def cliff_of(rows: Sequence[Row], guess_loss: float) -> Cliff:
    """Where the run stands before, on or past its cliff."""
    train = [row for row in rows if row["kind"] == "train"]
    wers = [row["wer"] for row in rows if row["kind"] == "eval" and row.get("wer") is not None]
    return find_cliff(
        [row["step"] for row in train],
        [row["loss"] for row in train],
        guess_loss=guess_loss,
        wer=wers[-1] if wers else None,
    )


def _cliff_note(cliff: Cliff, row: Row, guess_loss: float, n_rows: int) -> Note | None:
    loss = f"loss {row['loss']:.2f}"
    if cliff.phase is Phase.FALLING:
        text = f"The cliff: {loss} and falling now. The decoder begins to hear."
    elif cliff.phase is Phase.PASSED and cliff.sudden:
        text = f"The cliff was passed at step {cliff.step}: {loss}. From here it improves slowly."
    elif cliff.phase is Phase.PASSED:
        if cliff.step is not None and row["step"] < 2 * cliff.step:
            return None  # what has just come down may turn out to have been a cliff
        text = (
            f"The decoder hears since step {cliff.step}: {loss}. The loss came down without a "
            "plateau, so there was no cliff to wait for."
        )
    elif n_rows >= 6:
        text = (
            f"Still before the cliff: {loss}, and guessing by word frequency alone costs "
            f"{guess_loss:.2f}. The text is gibberish until the loss drops; that is normal."
        )
    else:
        return None
    return Note(f"cliff-{cliff.phase.value}", text)


def _start_note(evals: Sequence[Row]) -> Note | None:
    """Whether the newest evaluation is clearly better or worse than the start; first by WER."""
    start = start_of(evals)
    if start is None or evals[-1] is start:
        return None
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
            return None  # the two do not agree
    if not clearly:
        return None
    if change < 0:
        return Note("start-better", f"Better than at the start: {figures} at step 0.")
    return Note(
        "start-worse",
        f"Worse than at the start: {figures} at step 0. Are the labels written as the model wrote "
        "until now? If not, data.labels.case=lower and data.labels.punctuation=strip make them "
        "so; if they are, lower the learning rate.",
    )


def _unstable(train: Sequence[Row]) -> Note | None:
    norm = train[-1].get("grad_norm_max", 0.0)
    if norm <= UNSTABLE_NORM:
        return None
    return Note(
        "unstable",
        f"Unstable: the gradient norm reached {norm:.0f} (below 10 is steady, above "
        f"{UNSTABLE_NORM:.0f} is not). If it stays there, lower training.learning_rate or lengthen "
        "training.warmup_steps.",
    )


def _overfitting(train: Sequence[Row], evals: Sequence[Row]) -> Note | None:
    """The evaluation loss rises while the training loss goes on falling."""
    evals = [row for row in evals if row.get("eval_loss") is not None]
    if len(evals) <= OVERFIT_EVALUATIONS:
        return None
    lowest = min(range(len(evals)), key=lambda i: evals[i]["eval_loss"])
    best, now = evals[lowest], evals[-1]
    rises = now["eval_loss"] > OVERFIT_RISE * best["eval_loss"]
    if len(evals) - 1 - lowest < OVERFIT_EVALUATIONS or not rises:
        return None
    then, since = _mean_loss(train, best["step"]), _mean_loss(train, now["step"])
    if then is None or since is None or since >= then:
        return None
    return Note(
        "overfitting",
        f"Overfitting: since step {best['step']} the evaluation loss rose from "
        f"{best['eval_loss']:.3f} to {now['eval_loss']:.3f} while the training loss fell from "
        f"{then:.3f} to {since:.3f}. The model memorises; the best checkpoint is kept. More data, "
        "more augmentation or fewer steps help.",
    )


def _mean_loss(train: Sequence[Row], step: int, rows: int = 5) -> float | None:
    """Mean training loss of the last rows up to ``step``."""
    losses = [row["loss"] for row in train if row["step"] <= step][-rows:]
    return sum(losses) / len(losses) if losses else None


def _scale(row: Row) -> Note | None:
    output, embedding = row.get("projector_output_rms"), row.get("embedding_rms")
    if not output or not embedding:
        return None
    ratio = output / embedding
    if 1 / SCALE_DRIFT < ratio < SCALE_DRIFT:
        return None
    way = "louder" if ratio > 1 else "quieter"
    factor = ratio if ratio > 1 else 1 / ratio
    return Note(
        "scale",
        f"The audio tokens are {factor:.0f} times {way} than the decoder's own embeddings "
        f"({output:.2g} against {embedding:.2g}): they are unlike anything it has read. A lower "
        "training.learning_rate keeps them near.",
    )


def _dead_experts(train: Sequence[Row]) -> list[Note]:
    """Experts that got next to no frames in each of the last rows."""
    recent = train[-DEAD_ROWS:]
    names = [key for key in recent[-1] if re.search(r"_share_\d+$", key)]
    if len(recent) < DEAD_ROWS or not names:
        return []
    dead = [
        name
        for name in names
        if all(row.get(name, 1.0) < DEAD_BELOW / len(names) for row in recent)
    ]
    return [
        Note(
            name,
            f"Dead expert: {name.removeprefix('projector_')} is {recent[-1][name]:.1%}, an equal "
            f"share would be {1 / len(names):.0%}. It learns nothing any more.",
        )
        for name in dead
    ]
