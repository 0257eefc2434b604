"""A model over a test set: utterances to records, and their score.

utterances ─► listener ─► records (results.jsonl) ─► figures (summary.json, a table)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tiny_audio.config import GenerationConfig
from tiny_audio.data.records import Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.evaluate.listener import Answer, Listener, SpeechListener
from tiny_audio.evaluate.records import Evaluation, Record, assemble
from tiny_audio.evaluate.sets import Sample
from tiny_audio.evaluate.wer import Counts, UtteranceScore, score
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import ScoringRule

RESULTS, SUMMARY = "results.jsonl", "summary.json"

_SILENCE = np.zeros(0, dtype=np.float32)
_TRANSCRIPT = "transcript"  # the text before cleaning, which `Utterance.extra` carries along


def evaluate(
    model: SpeechModel,
    utterances: Iterable[Utterance | Reject],
    *,
    rule: ScoringRule,
    batch_seconds: float,
    max_utterances: int,
    generation: GenerationConfig,
    on_progress: Callable[[Record, Counts], None] | None = None,
) -> Evaluation:
    """Recognise and score a set; records are in the order of `utterances`.

    Args:
        model: put into evaluation mode for the while.
        utterances: their `text` is the reference; rejects become records of failures.
        rule: both texts are normalised by.
        batch_seconds: padded audio in one batch.
        max_utterances: utterances in one batch.
        generation: how text is decoded.
        on_progress: is given every record, in order, and the word counts up to it.
    """
    listener = SpeechListener(model, generation, batch_seconds, max_utterances)
    tally = Tally(rule)
    was_training = model.training
    model.eval()
    try:
        for record in recognised(listener, map(Sample, utterances)):
            tally.add(record)
            if on_progress is not None:
                on_progress(record, tally.words)
    finally:
        model.train(was_training)
    return tally.evaluation()


class Tally:
    """Records as they come, scored one by one."""

    def __init__(self, rule: ScoringRule) -> None:
        self.rule = rule
        self.records: list[Record] = []
        self.words = Counts()  # over all that were scored so far
        self._scores: list[UtteranceScore] = []

    def add(self, record: Record) -> None:
        """Score one more record; one that failed is only kept."""
        self.records.append(record)
        if record.error is None:
            one = score([record.reference], [record.hypothesis], self.rule).utterances[0]
            self._scores.append(one)
            self.words += one.words

    def evaluation(self) -> Evaluation:
        """All of them, scored."""
        return assemble(self.records, self._scores, self.rule.id)


def recognised(
    listener: Listener,
    samples: Iterable[Sample],
    *,
    model: str | None = None,
    test_set: str | None = None,
) -> Iterator[Record]:
    """What the listener makes of every sample, in order; nothing is scored yet."""
    pairs = ((s, s.item.waveform if isinstance(s.item, Utterance) else _SILENCE) for s in samples)
    for sample, answer in listener.listen(pairs):
        yield _record(sample, answer, model, test_set)


def _record(sample: Sample, answer: Answer, model: str | None, test_set: str | None) -> Record:
    item = sample.item
    if isinstance(item, Reject):
        failed = Record.failure(item.id, item.source, item.reason, item.message)
        return replace(
            failed,
            seconds=answer.work_seconds,
            model=model,
            set=test_set,
            audio=sample.audio,
            offset=sample.offset,
        )
    return Record(
        id=item.id,
        source=item.source,
        reference=item.text,
        hypothesis=answer.text,
        duration=answer.seconds,
        seconds=answer.work_seconds,
        logprob=answer.logprob,
        finished=answer.finished,
        speaker=item.speaker,
        error=answer.error,
        message=answer.message,
        model=model,
        set=test_set,
        tokens=answer.tokens,
        snr=sample.snr,
        audio=sample.audio,
        offset=sample.offset,
        extra=plain(item.extra),
    )


def plain(extra: dict[str, Any]) -> dict[str, Any]:
    """The columns that JSON can hold, without the transcript; numbers that are none become null."""
    kept: dict[str, Any] = {}
    for name, value in extra.items():
        if name == _TRANSCRIPT:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        try:
            kept[str(name)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):  # bytes, arrays and the like
            continue
    return kept
