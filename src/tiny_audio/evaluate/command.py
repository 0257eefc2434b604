"""`tiny-audio eval`: models over test sets, or the results of earlier ones scored again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from tiny_audio import logs
from tiny_audio.config import DataConfig
from tiny_audio.data.records import Source
from tiny_audio.data.sources import open_set
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.html import MOST, report_command
from tiny_audio.evaluate.listener import Listener
from tiny_audio.evaluate.models import Found, Options, find_model, open_model
from tiny_audio.evaluate.progress import Progress
from tiny_audio.evaluate.records import Evaluation, Record, rescore
from tiny_audio.evaluate.report import matrix, table
from tiny_audio.evaluate.resume import CHUNK_BATCHES, chunks, claim, fingerprint, whole_chunks
from tiny_audio.evaluate.run import RESULTS, SUMMARY, Tally, recognised
from tiny_audio.evaluate.sets import count, read_samples
from tiny_audio.evaluate.summary import summary
from tiny_audio.text.scoring import ScoringRule, get_rule


@dataclass(frozen=True)
class NamedSet:
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
    if report is not None and len(models) > MOST:
        raise ConfigError(f"--report shows {MOST} models at most, not {len(models)}.")
    located = [find_model(model, checkpoint) for model in models]
    found = dict(zip(_distinct(models), located, strict=True))
    names = _distinct([_set_name(one) for one in data])
    sets = [NamedSet(name, one, open_set(one)) for name, one in zip(names, data, strict=True)]
    out = out or Path("runs", f"eval-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    claim(out, _settings(found, sets, rule, options, limit))
    run = _Run(out, rule, options, limit)
    done = run.whole()
    evaluations: dict[str, Evaluation] = {}
    with logs.to_file(out), (out / RESULTS).open("a", encoding="utf-8") as results:
        for name, model in found.items():
            mine = [record for record in done if record.model == name]
            evaluations[name] = run.evaluate(name, model, sets, mine, results)
    about = {"data": [one.data for one in sets], "limit": limit, **asdict(options)}
    _finish(out, rule, evaluations, about)
    if report is not None:
        report_command([out], out=report, scoring=None)
    return evaluations


def rescore_command(
    file: Path, *, scoring: str, out: Path | None, report: Path | None = None
) -> dict[str, Evaluation]:
    """Score a results file, or the one in a folder, again: no model is needed.

    Shows the tables; with `out`, a folder, also writes its summary.json; with `report`, an HTML
    page of one model or two.
    """
    file = file / RESULTS if file.is_dir() else file
    whole = rescore(file, get_rule(scoring))
    parts = whole.by(lambda record: record.model or file.parent.name or file.stem)
    if out is not None and (out / SUMMARY).exists():
        raise ConfigError(f"{out} holds a {SUMMARY}: choose another --out.")
    _finish(out, get_rule(scoring), parts, {"results": str(file)})
    if report is not None:
        report_command([file], out=report, scoring=scoring)
    return parts


@dataclass(frozen=True)
class _Run:
    """One evaluation on its way."""

    out: Path
    rule: ScoringRule
    options: Options
    limit: int | None

    @property
    def chunk_seconds(self) -> float:
        return CHUNK_BATCHES * self.options.batch_seconds

    def whole(self) -> list[Record]:
        """What an earlier run of it has done."""
        complete = (self.out / SUMMARY).exists()
        done = whole_chunks(self.out / RESULTS, self.chunk_seconds, complete)
        if done:
            print(f"going on in {self.out} after {len(done):,} utterances", file=sys.stderr)
        return done

    def evaluate(
        self,
        name: str,
        model: Found,
        sets: Sequence[NamedSet],
        done: Sequence[Record],
        results: TextIO,
    ) -> Evaluation:
        """One model on all sets, after what of it is done; every record is written at once."""
        tally = Tally(self.rule)
        for record in done:
            tally.add(record)
        listener: Listener | None = None
        for number, test_set in enumerate(sets):
            total = count(test_set.sources, self.limit)
            before = sum(record.set == test_set.name for record in done)
            later = {one.name for one in sets[number + 1 :]}
            if self._is_over(done, test_set.name, later, total, before):
                continue
            if listener is None:
                listener = open_model(model, self.options)
            on_cpu = listener.device.type == "cpu"
            samples = read_samples(
                test_set.sources,
                limit=self.limit,
                num_workers=0 if on_cpu else DataConfig().num_workers,
                ahead_seconds=self.options.batch_seconds,
                start=before,
                max_bytes=self.options.max_bytes,
            )
            with Progress(f"{name} on {test_set.name}", total, before) as progress:
                for chunk in chunks(samples, self.chunk_seconds):
                    for record in recognised(listener, chunk, model=name, test_set=test_set.name):
                        results.write(record.to_json() + "\n")
                        results.flush()
                        tally.add(record)
                        progress.show(tally.words)
        return tally.evaluation()

    def _is_over(
        self, done: Sequence[Record], name: str, later: set[str], total: int | None, before: int
    ) -> bool:
        """Whether nothing of this set is left to do."""
        if (self.out / SUMMARY).exists() or any(record.set in later for record in done):
            return True
        return total is not None and before >= total > 0


def _finish(
    out: Path | None, rule: ScoringRule, evaluations: dict[str, Evaluation], about: dict[str, Any]
) -> None:
    """Write the summary and show the tables; DataError where a model has nothing scored."""
    head = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **about, "scoring": rule.id}
    each = {name: {"model": name, **summary(one)} for name, one in evaluations.items()}
    only = next(iter(each.values())) if len(each) == 1 else {"models": each}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        partial = out / f"{SUMMARY}.part"
        text = json.dumps({**head, **only}, indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(out / SUMMARY)
    console = Console()
    for name, one in evaluations.items():
        console.print(table(one, title=name))
    if len(evaluations) > 1:
        console.print(matrix(evaluations))
    for name, one in evaluations.items():
        if not one.scored:
            where = f", {out / RESULTS} says why" if out is not None else ""
            raise DataError(f"{name}: no utterance could be scored{where}.")


def _settings(
    models: dict[str, Found],
    sets: Sequence[NamedSet],
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
        "device": options.device,
        "batch_seconds": options.batch_seconds,
        "max_utterances": options.max_utterances,
        "beams": options.beams,
        "language": options.language,
        "quantise": options.quantise,
        "dtype": options.dtype,
    }


def _set_name(data: str) -> str:
    path = Path(data).expanduser()
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.is_file() else data


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered from the second on where they repeat."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found
