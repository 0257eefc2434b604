"""Models over test sets: `evaluate` from Python, `tiny-audio eval` from the command line.

    utterances ─► model ─► records (results.jsonl) ─► figures (summary.json, tables)

A test set is recognised in chunks, so that an evaluation which was stopped goes on where it was:
its file then equals, times aside, that of one which was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from tiny_audio import logs
from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.decode import Mono
from tiny_audio.config import GenerationConfig
from tiny_audio.data.records import Reject, Source, Utterance
from tiny_audio.data.sources import open_set
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate import results, tables
from tiny_audio.evaluate.models import (
    ModelFolder,
    Options,
    Transcribe,
    find_model,
    open_model,
    transcribe,
)
from tiny_audio.evaluate.results import RESULTS, SUMMARY, Evaluation, Record
from tiny_audio.evaluate.sets import chunks, count, read_samples, whole_chunks
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import ScoringRule, get_rule

SETTINGS = "settings.json"
CHUNK_BATCHES = 4  # batches' worth of audio in a chunk, sorted by length together


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

    The utterances' `text` is the reference; rejects become records of failures. A batch has at most
    `batch_seconds` of padded audio and `max_utterances` clips. The model's mode is restored.
    """
    was_training = model.training
    model.eval()
    try:
        records = transcribe(
            model,
            map(recording, utterances),
            options=generation,
            batch_seconds=batch_seconds,
            max_utterances=max_utterances,
        )
        return Evaluation.of(records, rule)
    finally:
        model.train(was_training)


def recording(item: Utterance | Reject, **columns: Any) -> tuple[Record, Mono]:
    """The record of an utterance before a model has heard it, with its waveform [S]."""
    if isinstance(item, Reject):
        columns |= {"error": item.reason, "message": item.message}
        return Record(item.id, item.source, "", "", 0.0, 0.0, **columns), np.zeros(0, np.float32)
    others = {name: value for name, value in item.extra.items() if name != "transcript"}
    # What JSON has not (bytes, arrays, NaN) becomes null.
    text = json.dumps(others, default=lambda _: None)
    columns |= {"speaker": item.speaker, "extra": json.loads(text, parse_constant=lambda _: None)}
    return Record(item.id, item.source, item.text, "", 0.0, 0.0, **columns), item.waveform


# ------------------------------------------------------------------------------------ the command


def evaluate_command(
    models: Sequence[str],
    data: Sequence[str],
    options: Options,
    scoring: str,
    out: Path | None = None,
    checkpoint: str = "best",
    report: Path | None = None,
) -> dict[str, Evaluation]:
    """Evaluate every model on every set; write results.jsonl and summary.json, show tables.

    models, checkpoint: see `find_model`. data: manifests, folders, benchmarks or presets. out:
    folder of the results, None: a new one under runs/; where it holds a part of this very
    evaluation, this goes on there. report: HTML page to write.

    Returns model -> its evaluation over all sets. Raises TinyAudioError where something is
    unknown or unreadable, `out` holds another evaluation, or every utterance failed.
    """
    rule = get_rule(scoring)
    if report is not None and len(models) > 2:
        raise ConfigError(f"--report shows 2 models at most, not {len(models)}.")
    located = [find_model(model, checkpoint) for model in models]
    found = dict(zip(results.distinct(models), located, strict=True))
    names = results.distinct([_set_name(one) for one in data])
    sets = dict(zip(names, map(open_set, data), strict=True))
    out = out or Path("runs", f"eval-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    settings = {
        "models": {name: [one.path, fingerprint(one.path)] for name, one in found.items()},
        "data": {name: [one, fingerprint(one)] for name, one in zip(names, data, strict=True)},
        "scoring": rule.id,
        **asdict(options),
    }
    claim(out, settings)
    complete = (out / SUMMARY).exists()
    records = whole_chunks(out / RESULTS, CHUNK_BATCHES * options.batch_seconds, complete)
    if records:
        print(f"going on in {out} after {len(records):,} utterances", file=sys.stderr)
    with logs.to_file(out), (out / RESULTS).open("a", encoding="utf-8") as file:
        for name, model in found.items() if not complete else ():
            for record in _transcribe(name, model, sets, options, records):
                file.write(record.to_json() + "\n")
                file.flush()
                records.append(record)
    evaluations = {
        name: Evaluation.of((one for one in records if one.model == name), rule) for name in found
    }
    _finish(evaluations, {"data": list(data), **asdict(options)}, out, report)
    return evaluations


def rescore_command(
    file: Path, *, scoring: str, out: Path | None, report: Path | None = None
) -> dict[str, Evaluation]:
    """Score a results file, or the one in a folder, again, without a model; show the tables.

    With `out`, a folder, also writes its summary.json; with `report`, an HTML page.
    """
    if out is not None and (out / SUMMARY).exists():
        raise ConfigError(f"{out} holds a {SUMMARY}: choose another --out.")
    evaluations = results.load_systems([file], scoring)
    _finish(evaluations, {"results": str(file)}, out, report)
    return evaluations


def _transcribe(
    name: str,
    model: ModelFolder,
    sets: dict[str, list[Source]],
    options: Options,
    done: Sequence[Record],
) -> Iterator[Record]:
    """What a model makes of what is left of all sets, in chunks; shows progress."""
    begun = Counter((record.model, record.set) for record in done)
    recognise: Transcribe | None = None
    for test_set, sources in sets.items():
        start = begun[name, test_set]
        if (name, test_set) in list(begun)[:-1]:  # each set is read to its end before the next
            continue
        recognise = recognise or open_model(model, options)
        samples = read_samples(sources, options, start)
        waiting = (recording(item, **about, model=name, set=test_set) for item, about in samples)
        size = CHUNK_BATCHES * options.batch_seconds
        parts = chunks(waiting, size, lambda one: len(one[1]) / SAMPLE_RATE)
        yield from track(
            (record for part in parts for record in recognise(part)),
            escape(f"{name} on {test_set}"),
            total=count(sources, options.limit),
            completed=start,
            console=Console(stderr=True),
            transient=True,
        )


def _finish(
    evaluations: dict[str, Evaluation],
    about: dict[str, Any],
    out: Path | None,
    report: Path | None,
) -> None:
    """Summary, tables and report; DataError where nothing of a model could be scored."""
    rule = next(iter(evaluations.values())).rule
    head = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **about, "scoring": rule}
    each = {name: {"model": name, **tables.summary(one)} for name, one in evaluations.items()}
    if out is not None:
        figures = {"models": each} if len(each) > 1 else next(iter(each.values()))
        _write_json(out / SUMMARY, {**head, **figures})
    tables.show(tables.figures_section(one, name) for name, one in evaluations.items())
    if len(evaluations) > 1:
        tables.show([tables.matrix_section(evaluations)])
    for name, one in evaluations.items():
        if not one.scored:
            where = f", {out / RESULTS} says why" if out is not None else ""
            raise DataError(f"{name}: no utterance could be scored{where}.")
    if report is not None:
        from tiny_audio.evaluate.report import write_report

        write_report(evaluations, out=report)


def _set_name(data: str) -> str:
    path = Path(data).expanduser()
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.is_file() else data


# ---------------------------------------------------------------------------------------- resume


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Take a folder for an evaluation; ConfigError names what differs from the one in there."""
    file = out / SETTINGS
    if not file.is_file():
        if (out / RESULTS).exists() or (out / SUMMARY).exists():
            raise ConfigError(f"{out} holds the results of an evaluation: choose another --out.")
        _write_json(file, settings)
    before = json.loads(file.read_text(encoding="utf-8"))
    both = [(name, before.get(name), settings.get(name)) for name in {**before, **settings}]
    changed = [
        f"{name} was {_short(was)}, now {_short(now)}" for name, was, now in both if was != now
    ]
    if changed:
        raise ConfigError(
            f"{out} holds another evaluation ({'; '.join(changed)}): choose another --out, or "
            "the same settings to go on with it."
        )


def fingerprint(name: str) -> str | None:
    """A hash over the names, sizes and times of a file or of a folder's files, None without one."""
    path = Path(name).expanduser()
    if not path.exists():
        return None
    files = sorted(one for one in (path, *path.rglob("*")) if one.is_file())
    state = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.blake2b(repr(state).encode(), digest_size=8).hexdigest()


def _write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _short(value: object) -> str:
    return textwrap.shorten(json.dumps(value, ensure_ascii=False), 80, placeholder="...")
