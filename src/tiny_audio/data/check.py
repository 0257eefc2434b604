"""A set before it is trained on: `tiny-audio data check`.

records ─► the same decoding, cleaning and limits as in training ─► statistics and fingerprints
        ─► check.json, check.png, a report on the terminal
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tiny_audio.config import Config
from tiny_audio.data.check_statistics import Finding, Statistics
from tiny_audio.data.overlap import Fingerprints
from tiny_audio.data.prepare import (
    Preparer,
    Result,
    TokenLimits,
    decode,
    label_rules,
    over_budget,
    quality_limits,
    sample_labels,
    settle_case,
)
from tiny_audio.data.records import Source, Utterance
from tiny_audio.data.rejects import EXAMPLES, RejectCounts
from tiny_audio.data.sources import open_set, open_sources, training_settings
from tiny_audio.errors import DataError
from tiny_audio.model.build import Lengths, lengths_of
from tiny_audio.model.checkpoint import find_checkpoint, read_config
from tiny_audio.text.labels import LabelRules

REPORT, PICTURE = "check.json", "check.png"
_SHOWN = 8  # on the terminal, of lists that the JSON file has in full


def check_command(
    data: str,
    settings: Sequence[str],
    *,
    limit: int | None = None,
    out: Path | None = None,
    against: Sequence[str] = (),
    model: str = "nano",
) -> dict[str, Any]:
    """`tiny-audio data check`: report on a set; writes check.json and check.png into `out`.

    Args:
        data: a manifest, a folder or a data preset.
        settings: ``key=value`` as for training.
        limit: read only the first so many records of each source.
        against: evaluation sets that should share nothing with it, named as `data` is.
        model: a pair's name, or a checkpoint.
    """
    folder = find_checkpoint(model) if Path(model).exists() else None
    pair = [f"model={model}"] if folder is None else []
    config = training_settings(data, [*pair, *settings])
    if folder is not None:
        config.model = read_config(folder).model
    specs = {name: asdict(source) for name, source in config.data.train.items()}
    sources = open_sources(
        specs, key="data.train", typed="DATA" if Path(data).expanduser().exists() else None
    )
    tests = {name: open_set(name, "--against") for name in against}
    lengths, now = lengths_of(config.model, folder), datetime.now(UTC)
    found, values = check_set(config, sources, lengths, tests, limit)
    about = {"data": data, "limit": limit, "settings": [*settings]}
    report = {**about, "date": now.isoformat(timespec="seconds"), **found}
    out = out or Path("runs", f"check-{now:%Y%m%d-%H%M%S}")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / REPORT).write_text(text + "\n", encoding="utf-8")
    draw_check(values, out / PICTURE)
    console = Console(markup=False, highlight=False)
    print_check(report, console)
    console.print(f"written: {out / REPORT}, {out / PICTURE}")
    return report


def check_set(
    config: Config,
    sources: Sequence[Source],
    lengths: Lengths,
    tests: Mapping[str, Sequence[Source]],
    limit: int | None,
) -> tuple[dict[str, Any], dict[str, Sequence[float]]]:
    """Read a set as training would: a report for JSON, and durations and character rates to draw.

    Raises DataError for a source without end, unless there is a limit, and where not one sample
    can be used.
    """
    data, workers = config.data, config.data.num_workers
    anything = Preparer(LabelRules(allow_empty=True), min_seconds=0.0, max_seconds=math.inf)
    tested = {
        name: Fingerprints(
            one for one in _read(test, None, anything, workers) if isinstance(one, Utterance)
        )
        for name, test in tests.items()
    }
    settle_case(data.labels, sample_labels(sources, data.labels))
    limits = TokenLimits(lengths.prompt, lengths.audio_tokens, data.max_label_tokens)
    budget = config.training.batch_seconds
    budget = math.inf if budget == "auto" else budget  # chosen in training
    preparer = Preparer(
        label_rules(data.labels), data.min_seconds, data.max_seconds, quality_limits(data)
    )
    statistics, prints, rejects = Statistics(lengths), Fingerprints(), RejectCounts()
    for result in _read(sources, limit, preparer, workers):
        rejects.seen += 1
        if isinstance(result, Utterance):
            result = over_budget(result, budget) or limits.check(result) or result
        if isinstance(result, Utterance):
            statistics.add(result)
            prints.add(result)
        else:
            rejects.add(result)
    if rejects.total == rejects.seen:
        raise DataError(f"No sample of the data can be used: {rejects.why()}.")
    repeats = prints.repeats()
    overlap = {
        f"{kind} of {name}": pairs
        for name, test in tested.items()
        for kind, pairs in prints.overlap(test).items()
    }
    findings: list[Finding] = [
        ("overlap", ids, f"{what} are in this set, too: take them out")
        for what, ids in overlap.items()
    ]
    findings += [
        ("repeat", ids, f"utterances came before, {kind}: take them out")
        for kind, ids in repeats.items()
    ]
    figures = statistics.figures()
    figures["repeats"] = {kind: len(ids) for kind, ids in repeats.items()}
    figures["overlap"] = {what: len(ids) for what, ids in overlap.items()}
    figures["case_of"] = data.labels.case_of
    listed = [_listed(*finding) for finding in (*findings, *statistics.findings()) if finding[1]]
    report = {"figures": figures, "findings": listed, "rejects": rejects.to_dict()}
    return report, statistics.values


def _listed(kind: str, ids: Sequence[str], message: str) -> dict[str, Any]:
    message = f"{len(ids):,} {message}"
    return {"kind": kind, "count": len(ids), "message": message, "examples": ids[:EXAMPLES]}


def _read(
    sources: Sequence[Source], limit: int | None, preparer: Preparer, num_workers: int
) -> Iterator[Result]:
    """What becomes of the records; progress is shown on standard error."""
    for source in sources:
        if source.endless and limit is None:
            raise DataError(f"The data source {source.name!r} is endless: set --limit.")
    records = chain.from_iterable(islice(source.records(), limit) for source in sources)
    decoded = decode(zip(records, repeat(None)), preparer, num_workers)
    for result, _ in track(decoded, "reading", console=Console(stderr=True), transient=True):
        yield result


def draw_check(values: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw durations and character rates as two histograms; writes a PNG."""
    # Imported here, and without pyplot: no window system is touched, whatever MPLBACKEND says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    for axes, (name, drawn) in zip(figure.subplots(1, 2), values.items(), strict=True):
        axes.hist(drawn, bins=40)
        axes.set(xlabel=name.replace("_", " "), ylabel="utterances")
    figure.savefig(path, format="png")


def print_check(report: Mapping[str, Any], console: Console) -> None:
    """Print a report of `check_command`; it fits into 80 columns."""
    console.print(report["data"], style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in report["figures"].items():
        table.add_row(name, _shown(value))
    console.print(table)
    for line in RejectCounts.from_dict(report["rejects"]).summary():
        console.print(line)
    console.print("\nto look at" if report["findings"] else "\nnothing stands out", style="bold")
    for finding in report["findings"]:
        line = f"- {finding['kind']}: {finding['message']} (such as {finding['examples'][0]})"
        console.print(line)


def _shown(value: Any) -> str:
    """A figure, the first of a list, or the first few of a dict."""
    if isinstance(value, dict):
        names = ", ".join(f"{name} {_shown(one)}" for name, one in islice(value.items(), _SHOWN))
        more = f", {len(value) - _SHOWN:,} more" if len(value) > _SHOWN else ""
        return names + more or "none"
    if isinstance(value, list):
        return _shown(value[0])
    if isinstance(value, tuple):
        return ": ".join(map(_shown, value))
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
