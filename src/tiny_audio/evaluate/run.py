"""A model over a test set: texts, word errors, speed; `tiny-audio eval`.

utterances ─► infer.recognise ─► records (results.jsonl) ─► figures (summary.json, a table)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tiny_audio.config import DataConfig, GenerationConfig
from tiny_audio.data.utterance import Reject, Utterance
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.records import Evaluation, Record, assemble
from tiny_audio.evaluate.report import percent, table
from tiny_audio.evaluate.sets import open_set, read_set
from tiny_audio.evaluate.wer import Counts, UtteranceScore, score
from tiny_audio.infer.recognise import Recognition, recognise
from tiny_audio.model.resolve import resolve_model
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import ScoringRule, get_rule

TOO_SHORT = "too_short"  # for a single audio token: a failure, not an empty hypothesis
RESULTS, SUMMARY = "results.jsonl", "summary.json"

_SILENCE = np.zeros(0, dtype=np.float32)


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
    records: list[Record] = []
    scores: list[UtteranceScore] = []
    words = Counts()
    was_training = model.training
    model.eval()
    try:
        recognised = recognise(
            model,
            ((u, u.waveform if isinstance(u, Utterance) else _SILENCE) for u in utterances),
            options=generation,
            batch_seconds=batch_seconds,
            max_utterances=max_utterances,
        )
        for utterance, found in recognised:
            record = _record(model, utterance, found)
            records.append(record)
            if record.error is None:
                scores.append(score([record.reference], [record.hypothesis], rule).utterances[0])
                words += scores[-1].words
            if on_progress is not None:
                on_progress(record, words)
    finally:
        model.train(was_training)
    return assemble(records, scores, rule.id)


def evaluate_command(
    model: str,
    data: str,
    *,
    out: Path | None,
    scoring: str,
    batch_seconds: float,
    max_utterances: int,
    device: str,
    limit: int | None,
    beams: int,
) -> Evaluation:
    """`tiny-audio eval`: evaluate, show a table, write results.jsonl and summary.json.

    Args:
        model: `nano`, a checkpoint, a run's folder or a hub id.
        data: a manifest, a folder, or the name of a data preset, whose evaluation sets are read.
        out: folder of the two files; None: a new one under runs/.
        limit: evaluate only the first so many utterances.

    Raises:
        TinyAudioError: something is unknown, missing or unreadable, `out` holds results already,
            or every utterance failed.
    """
    rule = get_rule(scoring)
    sources = open_set(data)
    now = datetime.now(UTC)
    out = out or Path("runs", f"eval-{now:%Y%m%d-%H%M%S}")
    if (out / RESULTS).exists():
        raise ConfigError(f"{out} holds the results of an evaluation: choose another --out.")
    recogniser = resolve_model(model, device=device)
    workers = DataConfig().workers if recogniser.device.type != "cpu" else 0
    out.mkdir(parents=True, exist_ok=True)
    with (out / RESULTS).open("w", encoding="utf-8") as results, _progress() as show:

        def note(record: Record, words: Counts) -> None:
            results.write(record.to_json() + "\n")
            results.flush()
            show(record, words)

        evaluation = evaluate(
            recogniser,
            read_set(sources, limit=limit, workers=workers, ahead_seconds=batch_seconds),
            rule=rule,
            batch_seconds=batch_seconds,
            max_utterances=max_utterances,
            generation=GenerationConfig(beams=beams),
            on_progress=note,
        )
    run: dict[str, object] = {
        "model": model,
        "data": data,
        "date": now.isoformat(timespec="seconds"),
    }
    run |= {"device": str(recogniser.device), "limit": limit, "beams": beams}
    run |= {"batch_seconds": batch_seconds, "max_utterances": max_utterances}
    (out / SUMMARY).write_text(json.dumps({**run, **evaluation.summary()}, indent=2) + "\n")
    Console().print(table(evaluation, title=f"{model} on {data}"))
    if not evaluation.scored:
        raise DataError(f"{data}: no utterance could be scored, {out / RESULTS} says why.")
    return evaluation


def _record(model: SpeechModel, utterance: Utterance | Reject, found: Recognition) -> Record:
    if isinstance(utterance, Reject):
        return Record.failure(utterance.id, utterance.source, utterance.reason)
    heard = model.audio_tokens(len(utterance.waveform)) > 0
    return Record(
        id=utterance.id,
        source=utterance.source,
        reference=utterance.text,
        hypothesis=found.text,
        duration=found.seconds,
        seconds=found.work_seconds,
        logprob=found.logprob,
        finished=found.finished,
        speaker=utterance.speaker,
        error=None if heard else TOO_SHORT,
    )


@contextmanager
def _progress() -> Iterator[Callable[[Record, Counts], None]]:
    """A line on standard error that counts utterances and shows the word error rate so far."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading audio")
        seen = 0

        def show(_: Record, words: Counts) -> None:
            nonlocal seen
            seen += 1
            progress.update(task, description=f"{seen:,} utterances, WER {percent(words.rate)}")

        yield show
