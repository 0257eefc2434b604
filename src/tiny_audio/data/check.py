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
from tiny_audio.data.check_statistics import Statistics, findings
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
from tiny_audio.data.rejects import Reject, RejectCounts
from tiny_audio.data.sources import is_path, open_set, open_sources, training_settings
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
    """`tiny-audio data check`: report on a set; writes check.json and check.png.

    Args:
        data: a manifest, a folder or a data preset.
        settings: ``key=value`` as for training.
        limit: read only the first so many records of each source.
        out: folder of the two files; None: a new one under runs/.
        against: evaluation sets that should share nothing with it, named as `data` is.
        model: a pair's name, or a checkpoint.

    Raises:
        TinyAudioError: something is unknown, missing or unreadable, or nothing can be used.
    """
    folder = find_checkpoint(model) if Path(model).exists() else None
    pair = [f"model={model}"] if folder is None else []
    config = training_settings(data, [*pair, *settings])
    if folder is not None:
        config.model = read_config(folder).model
    specs = {name: asdict(source) for name, source in config.data.train.items()}
    sources = open_sources(specs, key="data.train", typed="DATA" if is_path(data) else None)
    tests = {name: open_set(name, "--against") for name in against}
    now = datetime.now(UTC)
    report = {
        "data": data,
        "limit": limit,
        "settings": list(settings),
        "date": now.isoformat(timespec="seconds"),
        **check_set(config, sources, lengths_of(config.model, folder), tests, limit),
    }
    out = out or Path("runs", f"check-{now:%Y%m%d-%H%M%S}")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / REPORT).write_text(text + "\n", encoding="utf-8")
    draw_check(report, out / PICTURE)
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
) -> dict[str, Any]:
    """Read a set as training would and report what is in it, as plain values for JSON.

    Raises DataError for a source without end, unless there is a limit, and where not one sample
    can be used.
    """
    data, workers = config.data, config.data.num_workers
    anything = Preparer(LabelRules(allow_empty=True), min_seconds=0.0, max_seconds=math.inf)
    evaluation = {
        name: Fingerprints(
            u for u in _read(test, None, anything, workers) if isinstance(u, Utterance)
        )
        for name, test in tests.items()
    }
    settle_case(data.labels, sample_labels(sources, data.labels))
    limits = TokenLimits(lengths.prompt, lengths.audio_tokens, data.max_label_tokens)
    seconds = config.training.batch_seconds
    budget = math.inf if isinstance(seconds, str) else seconds  # auto: chosen in training
    preparer = Preparer(
        label_rules(data.labels), data.min_seconds, data.max_seconds, quality_limits(data)
    )
    statistics, prints, rejects = Statistics(lengths), Fingerprints(), RejectCounts()
    for result in _read(sources, limit, preparer, workers):
        rejects.seen += 1
        reject = result if isinstance(result, Reject) else over_budget(result, budget)
        if isinstance(result, Utterance):
            reject = reject or limits.check(result)
            if reject is None:
                statistics.add(result)
                prints.add(result)
        if reject is not None:
            rejects.add(reject)
    if rejects.total == rejects.seen:
        raise DataError(f"No sample of the data can be used: {rejects.why()}.")
    report = statistics.report() | {
        "rejects": rejects.to_dict(),
        "repeats": prints.repeats(),
        "overlap": [{"set": name} | prints.overlap(test) for name, test in evaluation.items()],
        "case_of": data.labels.case_of,
    }
    return report | {"findings": findings(report)}


def _read(
    sources: Sequence[Source], limit: int | None, preparer: Preparer, num_workers: int
) -> Iterator[Result]:
    """What becomes of the records, with their number on standard error meanwhile."""
    for source in sources:
        if source.endless and limit is None:
            raise DataError(f"The data source {source.name!r} is endless: set --limit.")
    records = chain.from_iterable(islice(source.records(), limit) for source in sources)
    decoded = decode(zip(records, repeat(None)), preparer, num_workers)
    for result, _ in track(decoded, "reading", console=Console(stderr=True), transient=True):
        yield result


def draw_check(report: dict[str, Any], path: Path) -> None:
    """Draw durations and character rates as histograms; writes a PNG."""
    # Imported here, and without pyplot: no window system is touched, whatever MPLBACKEND says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key, label in (
        (left, "seconds", "duration (s)"),
        (right, "characters_per_second", "characters of the label a second"),
    ):
        axes.stairs(report[key]["counts"], report[key]["edges"], fill=True)
        for quantile, colour in (("p01", "grey"), ("median", "tab:red"), ("p99", "grey")):
            axes.axvline(report[key][quantile], color=colour, linewidth=1, label=quantile)
        axes.legend(frameon=False)
        axes.set(xlabel=label, ylabel="utterances")
    figure.suptitle(f"{report['utterances']:,} utterances, {report['hours']:.2f} h")
    figure.savefig(path, format="png")


def print_check(report: dict[str, Any], console: Console) -> None:
    """Print a report of `check_set`; on a terminal of 80 columns it fits."""
    console.print(report["data"], style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, value)
    console.print(table)
    found = report["findings"]
    console.print("\nto look at" if found else "\nnothing stands out", style="bold")
    for one in found:
        console.print(f"- {one['kind']}: {one['message']}")


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of each figure."""
    utterances, rejects = report["utterances"], report["rejects"]
    yield "read", f"{rejects['seen']:,} records, {utterances:,} usable, {report['hours']:.2f} h"
    for name, part in report["sources"].items():
        yield f"  {name}", f"{part['utterances']:,} utterances, {part['hours']:.2f} h"
    for reason, count in rejects["reasons"].items():
        yield "rejected", f"{count:,} {reason}, such as {rejects['examples'][reason][0]}"
    for name, key in (("seconds", "seconds"), ("characters/s", "characters_per_second")):
        figures = ("min", "p01", "median", "p99", "max")
        yield name, ", ".join(f"{figure} {report[key][figure]:.1f}" for figure in figures)
    for extreme in ("slowest", "fastest"):
        rate, one, text = report[extreme][0]
        yield f"  {extreme}", f"{rate:.1f}, {one}: {text}"
    words, markers = report["vocabulary"], report["markers"]
    different = f"{words['different_words']:,} different, {words['words_seen_once']:,} of them once"
    yield "words", f"{words['running_words']:,}, {different}"
    odd = _listed({repr(c)[1:-1]: n for c, n in words["odd_characters"].items()})
    yield "characters", f"{len(words['characters'])} different; odd: {odd}"
    styles = [
        f"{report['labels'].get(style, 0) / utterances:.0%} {style}"
        for style in ("in capitals", "with punctuation", "with digits")
    ]
    cases = [f"{name}: case={case}" for name, case in report["case_of"].items() if case != "keep"]
    yield "labels", ", ".join(styles + cases)
    yield "notes removed", _listed(markers["removed_by_cleaning"])
    yield "notes left", _listed(markers["left"])
    repeats = report["repeats"].items()
    yield "repeats", _listed({kind.replace("_", " "): one["utterances"] for kind, one in repeats})
    for test in report["overlap"]:
        for kind in ("recordings", "long_texts"):
            shared = f"{test[kind]['in_training']:,} of {test[kind]['distinct']:,}"
            yield "overlap", f"{test['set']}: {shared} {kind.replace('_', ' ')}"
    tokens = report["tokens"]
    yield (
        "tokens",
        f"{tokens['model']}: {tokens['audio_tokens_per_second']:.1f} audio and "
        f"{tokens['label_tokens_per_second']:.1f} label tokens a second; the longest utterance "
        f"takes {tokens['longest_sequence']:,} with the prompt, the decoder's context is "
        f"{tokens['context'] or 'not known'}",
    )
    speakers = report["speakers"]
    yield "speakers", f"{speakers['speakers']:,} named; {_listed(speakers['most_utterances'])}"


def _listed(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {n:,}" for name, n in islice(counts.items(), _SHOWN)]
    more = [f"{len(counts) - _SHOWN:,} more"] if len(counts) > _SHOWN else []
    return ", ".join([*shown, *more]) or "none"
