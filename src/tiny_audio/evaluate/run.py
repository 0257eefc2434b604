"""Models over test sets: `evaluate` from Python, `tiny-audio eval` from the command line.

    utterances ─► model ─► records (results.jsonl) ─► figures (summary.json, tables)

A test set is recognised in chunks, so that an evaluation which was stopped goes on where it was:
its file then equals, times aside, that of one which was never stopped.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tiny_audio import logs
from tiny_audio.config import DataConfig, GenerationConfig
from tiny_audio.data.records import Source, Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.data.sources import open_set
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.models import (
    ModelFolder,
    Options,
    SpeechAdapter,
    TransformersAdapter,
    find_model,
    open_model,
)
from tiny_audio.evaluate.results import (
    RESULTS,
    SUMMARY,
    Evaluation,
    Record,
    claim,
    fingerprint,
    rescore,
    results_file,
    whole_chunks,
    write_json,
)
from tiny_audio.evaluate.sets import Sample, chunks, count, read_samples
from tiny_audio.evaluate.tables import figures_section, matrix_section, percent, show, summary
from tiny_audio.evaluate.wer import Counts, Score, UtteranceScore, score_utterance
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import ScoringRule, get_rule

CHUNK_BATCHES = 4  # batches' worth of audio in a chunk, sorted by length together
MOST_IN_REPORT = 2  # models

_SILENCE = np.zeros(0, dtype=np.float32)
_TRANSCRIPT = "transcript"  # the text before cleaning, which `Utterance.extra` carries along

# ------------------------------------------------------------------------------------ one set


def evaluate(
    model: SpeechModel,
    utterances: Iterable[Utterance | Reject],
    *,
    rule: ScoringRule,
    batch_seconds: float,
    max_utterances: int,
    generation: GenerationConfig,
) -> Evaluation:
    """Recognise and score a set; records are in the order of `utterances`.

    Args:
        model: put into evaluation mode for the while.
        utterances: their `text` is the reference; rejects become records of failures.
        rule: both texts are normalised by.
        batch_seconds, max_utterances: padded audio and clips in one batch.
        generation: how text is decoded.
    """
    adapter = SpeechAdapter(model, generation, batch_seconds, max_utterances)
    accumulator = ScoreAccumulator(rule)
    was_training = model.training
    model.eval()
    try:
        for record in transcribe(adapter, map(Sample, utterances)):
            accumulator.add(record)
    finally:
        model.train(was_training)
    return accumulator.evaluation()


class ScoreAccumulator:
    """Records as they come, scored one by one; one that failed is only kept."""

    def __init__(self, rule: ScoringRule, records: Iterable[Record] = ()) -> None:
        self.rule = rule
        self.records: list[Record] = []
        self.words = Counts()  # over all that were scored so far
        self._scores: list[UtteranceScore] = []
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Score one more record."""
        self.records.append(record)
        if record.error is None:
            one = score_utterance(record.reference, record.hypothesis, self.rule)
            self._scores.append(one)
            self.words += one.words

    def evaluation(self) -> Evaluation:
        """All of them, scored."""
        return Evaluation(tuple(self.records), Score.of(self.rule.id, self._scores))


def transcribe(
    adapter: SpeechAdapter | TransformersAdapter,
    samples: Iterable[Sample],
    *,
    model: str | None = None,
    test_set: str | None = None,
) -> Iterator[Record]:
    """What a model makes of every sample, in order; nothing is scored yet."""
    return adapter.transcribe((_record(one, model, test_set), _waveform(one)) for one in samples)


def _waveform(sample: Sample) -> NDArray[np.float32]:
    return sample.item.waveform if isinstance(sample.item, Utterance) else _SILENCE


def _record(sample: Sample, model: str | None, test_set: str | None) -> Record:
    """The record of a sample before a model has heard it."""
    item = sample.item
    record = Record(
        item.id, item.source, reference="", hypothesis="", duration=0.0, seconds=0.0,
        model=model, set=test_set, audio=sample.audio, offset=sample.offset,
    )  # fmt: skip
    if isinstance(item, Reject):
        return replace(record, error=item.reason, message=item.message)
    extra = _json_columns(item.extra)
    return replace(record, reference=item.text, speaker=item.speaker, snr=sample.snr, extra=extra)


def _json_columns(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that JSON can hold, without the transcript; numbers that are none become null."""
    found: dict[str, Any] = {}
    for name, value in extra.items():
        if name == _TRANSCRIPT:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        try:
            found[str(name)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):  # bytes, arrays and the like
            continue
    return found


# ------------------------------------------------------------------------------------ the command


@dataclass(frozen=True)
class EvalSet:
    """What one ``--data`` names: its sources, and the name that its records carry."""

    name: str
    data: str
    sources: list[Source]


def evaluate_command(
    models: Sequence[str],
    data: Sequence[str],
    *,
    out: Path | None,
    scoring: str,
    options: Options,
    limit: int | None = None,
    checkpoint: str = "best",
    report: Path | None = None,
) -> dict[str, Evaluation]:
    """Evaluate every model on every set; write results.jsonl and summary.json, show tables.

    Args:
        models: see `find_model`.
        data: manifests, folders, benchmarks or presets.
        out: folder of the results; where it holds a part of this very evaluation, this goes on
            there. None: a new one under runs/.
        limit: only the first so many utterances of each set.
        checkpoint: of runs, ``best`` or ``last``.
        report: HTML page to write, of one model or two.

    Returns:
        model -> its evaluation over all sets.

    Raises:
        TinyAudioError: something is unknown, missing or unreadable, `out` holds another
            evaluation, or every utterance failed.
    """
    rule = get_rule(scoring)
    if report is not None and len(models) > MOST_IN_REPORT:
        raise ConfigError(f"--report shows {MOST_IN_REPORT} models at most, not {len(models)}.")
    located = [find_model(model, checkpoint) for model in models]
    found = dict(zip(_distinct(models), located, strict=True))
    names = _distinct([_set_name(one) for one in data])
    sets = [EvalSet(name, one, open_set(one)) for name, one in zip(names, data, strict=True)]
    out = out or Path("runs", f"eval-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    claim(out, _settings(found, sets, rule, options, limit))
    complete = (out / SUMMARY).exists()
    done = whole_chunks(out / RESULTS, CHUNK_BATCHES * options.batch_seconds, complete)
    if done:
        print(f"going on in {out} after {len(done):,} utterances", file=sys.stderr)
    evaluations: dict[str, Evaluation] = {}
    with logs.to_file(out), (out / RESULTS).open("a", encoding="utf-8") as results:
        for name, model in found.items():
            scores = ScoreAccumulator(rule, (record for record in done if record.model == name))
            if not complete:
                _evaluate_sets(name, model, sets, scores, options, limit, results)
            evaluations[name] = scores.evaluation()
    _finish(out, rule, evaluations, {"data": list(data), "limit": limit, **asdict(options)})
    if report is not None:
        from tiny_audio.evaluate.report import write_report

        write_report([out], out=report)
    return evaluations


def rescore_command(
    file: Path, *, scoring: str, out: Path | None, report: Path | None = None
) -> dict[str, Evaluation]:
    """Score a results file, or the one in a folder, again: no model is needed.

    Shows the tables; with `out`, a folder, also writes its summary.json; with `report`, an HTML
    page of one model or two.
    """
    file = results_file(file)
    rule = get_rule(scoring)
    parts = rescore(file, rule).by(lambda record: record.model or file.parent.name or file.stem)
    if out is not None and (out / SUMMARY).exists():
        raise ConfigError(f"{out} holds a {SUMMARY}: choose another --out.")
    _finish(out, rule, parts, {"results": str(file)})
    if report is not None:
        from tiny_audio.evaluate.report import write_report

        write_report([file], out=report, scoring=scoring)
    return parts


def _evaluate_sets(
    name: str,
    model: ModelFolder,
    sets: Sequence[EvalSet],
    scores: ScoreAccumulator,
    options: Options,
    limit: int | None,
    results: TextIO,
) -> None:
    """One model on what is left of all sets; every record is written and scored at once."""
    adapter: SpeechAdapter | TransformersAdapter | None = None
    begun = [record.set for record in scores.records]
    for number, test_set in enumerate(sets):
        total, before = count(test_set.sources, limit), begun.count(test_set.name)
        is_later_begun = any(one.name in begun for one in sets[number + 1 :])
        if is_later_begun or (total is not None and before >= total > 0):
            continue
        adapter = adapter or open_model(model, options)
        samples = read_samples(
            test_set.sources,
            limit=limit,
            num_workers=0 if adapter.device.type == "cpu" else DataConfig().num_workers,
            ahead_seconds=options.batch_seconds,
            start=before,
            max_bytes=options.max_bytes,
        )
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            title = escape(f"{name} on {test_set.name}")
            task = progress.add_task(title, total=total, completed=before)
            for chunk in chunks(samples, CHUNK_BATCHES * options.batch_seconds):
                for record in transcribe(adapter, chunk, model=name, test_set=test_set.name):
                    results.write(record.to_json() + "\n")
                    results.flush()
                    scores.add(record)
                    wer = percent(scores.words.rate)
                    progress.update(task, advance=1, description=f"{title}, WER {wer}")


def _finish(
    out: Path | None, rule: ScoringRule, evaluations: dict[str, Evaluation], about: dict[str, Any]
) -> None:
    """Write the summary and show the tables; DataError where a model has nothing scored."""
    head = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **about, "scoring": rule.id}
    each = {name: {"model": name, **summary(one)} for name, one in evaluations.items()}
    only = next(iter(each.values())) if len(each) == 1 else {"models": each}
    if out is not None:
        write_json(out / SUMMARY, {**head, **only})
    show(figures_section(one, name) for name, one in evaluations.items())
    if len(evaluations) > 1:
        show([matrix_section(evaluations)])
    for name, one in evaluations.items():
        if not one.scored:
            where = f", {out / RESULTS} says why" if out is not None else ""
            raise DataError(f"{name}: no utterance could be scored{where}.")


def _settings(
    models: dict[str, ModelFolder],
    sets: Sequence[EvalSet],
    rule: ScoringRule,
    options: Options,
    limit: int | None,
) -> dict[str, Any]:
    """Everything that the records and figures depend on."""
    return {
        "models": {name: [one.path, fingerprint(Path(one.path))] for name, one in models.items()},
        "data": {one.name: [one.data, fingerprint(Path(one.data).expanduser())] for one in sets},
        "scoring": rule.id,
        "limit": limit,
        **asdict(options),
    }


def _set_name(data: str) -> str:
    path = Path(data).expanduser()
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.is_file() else data


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered from the second on where they repeat."""
    repeats = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}-{n + 1}" if n else name for name, n in zip(names, repeats, strict=True)]
