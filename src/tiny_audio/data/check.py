"""A set before it is trained on: `tiny-audio data check`.

records ─► the same decoding, cleaning and limits as in training ─► counts and fingerprints
        ─► check.json, check.png, a report on the terminal
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tiny_audio.config import Config, LabelConfig
from tiny_audio.data.check_findings import findings
from tiny_audio.data.check_plot import draw_check
from tiny_audio.data.check_report import print_check
from tiny_audio.data.check_tally import Tally
from tiny_audio.data.decode import Item, decode
from tiny_audio.data.named import is_place, open_set, training_settings
from tiny_audio.data.overlap import EvaluationSet, Pairs
from tiny_audio.data.pool import over_budget
from tiny_audio.data.prepare import Preparer, TokenLimits
from tiny_audio.data.quality import quality_limits
from tiny_audio.data.records import IndexedSource, Source
from tiny_audio.data.sources import open_sources
from tiny_audio.data.utterance import Reject, RejectCounts, Utterance
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.model.checkpoint import read_config
from tiny_audio.model.lengths import Lengths, lengths_of
from tiny_audio.model.resolve import find_checkpoint
from tiny_audio.text.labels import LabelRules

REPORT, PICTURE = "check.json", "check.png"


class Reading:
    """The records of several sources, one after the other, which remembers where each began.

    Args:
        limit: read only the first so many of each source.
    """

    def __init__(self, sources: Sequence[Source], limit: int | None) -> None:
        for source in sources:
            if source.endless and limit is None:
                raise DataError(f"The data source {source.name!r} is endless: set --limit.")
        self._sources, self._limit = sources, limit
        self._begun: list[tuple[int, Source]] = []

    def items(self) -> Iterator[tuple[Item, int]]:
        """Every record with its number."""
        number = 0
        for source in self._sources:
            self._begun.append((number, source))
            for item in islice(source.records(), self._limit):
                yield item, number
                number += 1

    def name(self, number: int) -> str:
        """The id of a record that was read, its number where that cannot be found cheaply."""
        start, source = max((b for b in self._begun if b[0] <= number), key=lambda b: b[0])
        if isinstance(source, IndexedSource):
            return next(source.records(number - start)).id
        return f"record {number - start + 1:,} of {source.name}"


def check_set(
    config: Config,
    sources: Sequence[Source],
    lengths: Lengths,
    tests: Sequence[EvaluationSet] = (),
    *,
    limit: int | None = None,
    on_progress: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Read a set as training would and report what is in it, as plain values for JSON.

    Args:
        config: how labels are cleaned, and what is rejected.
        lengths: of the model that is to learn from it.
        tests: sets that should share nothing with it.
        limit: read only the first so many records of each source.
        on_progress: is given the records and the seconds of audio so far.

    Raises DataError for a source without end, unless there is a limit, and where not one sample
    can be used.
    """
    data, reading = config.data, Reading(sources, limit)
    rules = LabelRules(
        data.labels.case, data.labels.punctuation, allow_empty=data.labels.allow_empty
    )
    limits = TokenLimits(lengths.prompt, lengths.audio_tokens, data.max_label_tokens)
    preparer = Preparer(rules, data.min_seconds, data.max_seconds, quality_limits(data))
    tally, rejects = Tally(lengths, tests), RejectCounts()
    seconds = config.training.batch_seconds
    budget = math.inf if isinstance(seconds, str) else seconds  # auto: chosen in training
    for result, number in decode(reading.items(), preparer, data.num_workers):
        rejects.seen += 1
        reject = result if isinstance(result, Reject) else None
        if isinstance(result, Utterance):
            reject = over_budget(result, budget) or limits.check(result)
            if reject is None:
                tally.add(result, number)
        if reject is not None:
            rejects.add(reject)
        if on_progress is not None:
            on_progress(rejects.seen, tally.durations.total)
    if rejects.total == rejects.seen:
        why = "; ".join(line.strip() for line in rejects.summary()) or "it is empty"
        raise DataError(f"No sample of the data can be used: {why}.")
    return _report(tally, rejects, reading)


def check_command(
    data: str,
    settings: Sequence[str],
    *,
    limit: int | None,
    out: Path | None,
    against: Sequence[str],
    model: str,
    part: str,
) -> dict[str, Any]:
    """`tiny-audio data check`: report on a set; writes check.json and check.png.

    Args:
        data: a manifest, a folder or a data preset, of which `part` (train or eval) is read.
        settings: ``key=value`` as for training.
        limit: read only the first so many records of each source.
        out: folder of the two files; None: a new one under runs/.
        against: evaluation sets that should share nothing with it, named as `data` is.
        model: a pair's name, or a checkpoint.

    Raises:
        TinyAudioError: something is unknown, missing or unreadable, or nothing can be used.
    """
    config, folder = _settings(data, settings, model)
    chosen = {"train": config.data.train, "eval": config.data.eval}.get(part)
    if chosen is None:
        raise ConfigError(f"--part is {part}: use train or eval.")
    typed = "DATA" if is_place(data) else None
    sources = open_sources(
        {k: asdict(v) for k, v in chosen.items()}, key=f"data.{part}", typed=typed
    )
    reading = [(name, open_set(name, "--against")) for name in against]
    lengths = lengths_of(config.model, folder)
    now = datetime.now(UTC)
    out = out or Path("runs", f"check-{now:%Y%m%d-%H%M%S}")
    with _progress() as show:
        tests = [
            EvaluationSet(name, _evaluation(opened, config.data.num_workers))
            for name, opened in reading
        ]
        found = check_set(config, sources, lengths, tests, limit=limit, on_progress=show)
    about: dict[str, Any] = {"data": data, "part": part, "limit": limit, "settings": list(settings)}
    about |= {"date": now.isoformat(timespec="seconds")}
    report = about | found
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / REPORT).write_text(text + "\n", encoding="utf-8")
    draw_check(report, out / PICTURE)
    print_check(report, Console())
    Console().print(f"written: {out / REPORT}, {out / PICTURE}", markup=False, highlight=False)
    return report


def _report(tally: Tally, rejects: RejectCounts, reading: Reading) -> dict[str, Any]:
    repeats = tally.repeats

    def named(pairs: Pairs) -> dict[str, Any]:
        found = [{"id": i, "first": reading.name(n), "text": t} for i, n, t in pairs.examples]
        return {"utterances": pairs.count, "examples": found}

    report: dict[str, Any] = tally.hours() | {
        "rejects": rejects.to_dict(),
        "seconds": tally.durations.summary(),
        "characters_per_second": tally.rates.summary() | {"extremes": tally.extremes.summary()},
        "vocabulary": tally.vocabulary(),
        "labels": tally.policy.summary(),
        "markers": tally.markers.summary(),
        "repeats": {
            "same_audio_and_text": named(repeats.same),
            "same_audio_other_text": named(repeats.conflicting),
            "same_text_other_audio": named(repeats.text_only),
        },
        "overlap": [test.summary() for test in tally.tests],
        "tokens": tally.tokens.summary(tally.durations.total),
        "speakers": tally.voices(),
    }
    return report | {"findings": findings(report)}


def _settings(data: str, settings: Sequence[str], model: str) -> tuple[Config, Path | None]:
    """The run's settings and, where the model is a checkpoint, the folder of its tokenizer."""
    if not Path(model).exists():
        return training_settings(data, [f"model={model}", *settings]), None
    config, folder = training_settings(data, settings), find_checkpoint(model)
    config.model = read_config(folder).model
    return config, folder


def _evaluation(sources: Sequence[Source], num_workers: int) -> Iterator[Utterance]:
    """What can be used of an evaluation set, whatever its length."""
    labels = LabelConfig()
    rules = LabelRules(labels.case, labels.punctuation, allow_empty=True)
    preparer = Preparer(rules, min_seconds=0.0, max_seconds=math.inf)
    for result, _ in decode(Reading(sources, None).items(), preparer, num_workers):
        if isinstance(result, Utterance):
            yield result


@contextmanager
def _progress() -> Iterator[Callable[[int, float], None]]:
    """A line on standard error that counts records and hours."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading")

        def show(records: int, seconds: float) -> None:
            progress.update(task, description=f"{records:,} records, {seconds / 3600:.2f} h")

        yield show
