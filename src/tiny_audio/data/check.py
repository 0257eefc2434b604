"""A set before it is trained on: `tiny-audio data check`.

records ─► the same decoding, cleaning and limits as in training ─► statistics and fingerprints
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
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tiny_audio.config import Config
from tiny_audio.data.check_statistics import Statistics, findings
from tiny_audio.data.overlap import EvaluationSet, Pairs
from tiny_audio.data.prepare import (
    Preparer,
    TokenLimits,
    decode,
    label_rules,
    over_budget,
    quality_limits,
    sample_labels,
    settle_case,
)
from tiny_audio.data.records import IndexedSource, Item, Source, Utterance
from tiny_audio.data.rejects import Reject, RejectCounts
from tiny_audio.data.sources import is_path, open_set, open_sources, training_settings
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.model.build import Lengths, lengths_of
from tiny_audio.model.checkpoint import find_checkpoint, read_config
from tiny_audio.text.labels import LabelRules

REPORT, PICTURE = "check.json", "check.png"
_SHOWN = 8  # on the terminal, of lists that the JSON file has in full
_BARS, _BAR_WIDTH = 12, 40


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
    typed = "DATA" if is_path(data) else None
    sources = open_sources(
        {k: asdict(v) for k, v in chosen.items()}, key=f"data.{part}", typed=typed
    )
    opened = [(name, open_set(name, "--against")) for name in against]
    lengths = lengths_of(config.model, folder)
    now = datetime.now(UTC)
    out = out or Path("runs", f"check-{now:%Y%m%d-%H%M%S}")
    with _progress() as show:
        tests = [
            EvaluationSet(name, _evaluation(test, config.data.num_workers)) for name, test in opened
        ]
        found = check_set(config, sources, lengths, tests, limit=limit, on_progress=show)
    about: dict[str, Any] = {"data": data, "part": part, "limit": limit, "settings": list(settings)}
    report = about | {"date": now.isoformat(timespec="seconds")} | found
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / REPORT).write_text(text + "\n", encoding="utf-8")
    draw_check(report, out / PICTURE)
    print_check(report, Console())
    Console().print(f"written: {out / REPORT}, {out / PICTURE}", markup=False, highlight=False)
    return report


def check_set(
    config: Config,
    sources: Sequence[Source],
    lengths: Lengths,
    tests: Sequence[EvaluationSet] = (),
    *,
    limit: int | None = None,
    on_progress: Callable[[int, float], None] = lambda records, hours: None,
) -> dict[str, Any]:
    """Read a set as training would and report what is in it, as plain values for JSON.

    Args:
        config: how labels are cleaned, and what is rejected.
        lengths: of the model that is to learn from it.
        tests: sets that should share nothing with it.
        limit: read only the first so many records of each source.
        on_progress: is given the records and the hours of audio so far.

    Raises DataError for a source without end, unless there is a limit, and where not one sample
    can be used.
    """
    data, reader = config.data, _Reader(sources, limit)
    settle_case(data.labels, sample_labels(sources, data.labels))
    rules = label_rules(data.labels)
    limits = TokenLimits(lengths.prompt, lengths.audio_tokens, data.max_label_tokens)
    preparer = Preparer(rules, data.min_seconds, data.max_seconds, quality_limits(data))
    statistics, rejects = Statistics(lengths, tests), RejectCounts()
    seconds = config.training.batch_seconds
    budget = math.inf if isinstance(seconds, str) else seconds  # auto: chosen in training
    for result, number in decode(reader.items(), preparer, data.num_workers):
        rejects.seen += 1
        reject = result if isinstance(result, Reject) else None
        if isinstance(result, Utterance):
            reject = over_budget(result, budget) or limits.check(result)
            if reject is None:
                statistics.add(result, number)
        if reject is not None:
            rejects.add(reject)
        on_progress(rejects.seen, statistics.hours)
    if rejects.total == rejects.seen:
        raise DataError(f"No sample of the data can be used: {rejects.why()}.")

    def pairs(found: Pairs) -> dict[str, Any]:
        examples = [{"id": i, "first": reader.name(n), "text": t} for i, n, t in found.examples]
        return {"utterances": found.count, "examples": examples}

    repeats = statistics.repeats
    report = statistics.report() | {
        "rejects": rejects.to_dict(),
        "repeats": {
            "same_audio_and_text": pairs(repeats.same),
            "same_audio_other_text": pairs(repeats.conflicting),
            "same_text_other_audio": pairs(repeats.text_only),
        },
    }
    report["labels"]["case_of"] = data.labels.case_of
    return report | {"findings": findings(report)}


class _Reader:
    """The records of several sources, one after the other, which remembers where each began."""

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
        start, source = next(begun for begun in reversed(self._begun) if begun[0] <= number)
        if isinstance(source, IndexedSource):
            return next(source.records(number - start)).id
        return f"record {number - start + 1:,} of {source.name}"


def _settings(data: str, settings: Sequence[str], model: str) -> tuple[Config, Path | None]:
    """The run's settings and, where the model is a checkpoint, the folder of its tokenizer."""
    if not Path(model).exists():
        return training_settings(data, [f"model={model}", *settings]), None
    config, folder = training_settings(data, settings), find_checkpoint(model)
    config.model = read_config(folder).model
    return config, folder


def _evaluation(sources: Sequence[Source], num_workers: int) -> Iterator[Utterance]:
    """What can be used of an evaluation set, whatever its length."""
    preparer = Preparer(LabelRules(allow_empty=True), min_seconds=0.0, max_seconds=math.inf)
    for result, _ in decode(_Reader(sources, None).items(), preparer, num_workers):
        if isinstance(result, Utterance):
            yield result


@contextmanager
def _progress() -> Iterator[Callable[[int, float], None]]:
    """A line on standard error that counts records and hours."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading")
        yield lambda records, hours: progress.update(
            task, description=f"{records:,} records, {hours:.2f} h"
        )


# ------------------------------------------------------------------------------ what is shown


def draw_check(report: dict[str, Any], path: Path) -> None:
    """Draw durations and character rates as histograms; writes a PNG."""
    # Imported here, and without pyplot: no window system is touched, whatever MPLBACKEND says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    panels = zip(
        figure.subplots(1, 2),
        ("seconds", "characters_per_second"),
        ("duration (s)", "characters of the label a second"),
        strict=True,
    )
    for axes, key, label in panels:
        edges, counts = rebin(report[key], 40)
        axes.stairs(counts, edges, fill=True, edgecolor="white", linewidth=0.4)
        axes.axvline(report[key]["median"], color="tab:red", linewidth=1, label="median")
        axes.axvline(report[key]["p01"], color="grey", linestyle=":", label="1 %, 99 %")
        axes.axvline(report[key]["p99"], color="grey", linestyle=":")
        axes.legend(frameon=False)
        axes.set(xlabel=label, ylabel="utterances", xlim=(edges[0], edges[-1]))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(f"{report['utterances']:,} utterances, {report['hours']:.2f} h")
    figure.savefig(path, format="png")


def rebin(histogram: dict[str, Any], most: int) -> tuple[list[float], list[int]]:
    """A histogram with at most so many bars of a round width: edges [n + 1] and counts [n]."""
    fine: list[int] = histogram["bins"]
    first = next((i for i, n in enumerate(fine) if n), 0)
    for joined in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        start = first // joined * joined
        if len(fine) - start <= joined * most:
            break
    counts = [sum(fine[i : i + joined]) for i in range(start, max(len(fine), 1), joined)]
    edges = [(start + i * joined) * histogram["bin_width"] for i in range(len(counts) + 1)]
    return edges, counts


def print_check(report: dict[str, Any], console: Console) -> None:
    """Print a report of `check_set` in 80 columns."""
    console.print(f"[bold]{escape(str(report['data']))}[/bold]", highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, escape(value))
    console.print(table, highlight=False)
    _print_bars(console, report["seconds"], "duration (s)")
    _print_bars(console, report["characters_per_second"], "characters a second")
    console.print("\n[bold]examples[/bold]")
    for line in _examples(report):
        cut = line if len(line) <= console.width else line[: console.width - 1] + "…"
        console.print(cut, markup=False, highlight=False)
    found = report["findings"]
    console.print(f"\n[bold]{'to look at' if found else 'nothing stands out'}[/bold]")
    for one in found:
        console.print(f"- {one['kind']}: {one['message']}", markup=False, highlight=False)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of each figure."""
    rejects, seconds, words = report["rejects"], report["seconds"], report["vocabulary"]
    yield "read", f"{rejects['seen']:,} records, {report['utterances']:,} usable"
    span = f"{seconds['min']:.1f} to {seconds['max']:.1f} s, mean {seconds['mean']:.1f}"
    yield "audio", f"{report['hours']:.2f} h; {span}, median {seconds['median']:.1f}"
    if len(report["sources"]) > 1:
        for name, part in report["sources"].items():
            yield f"  {name}", f"{part['utterances']:,} utterances, {part['hours']:.2f} h"
    if rejects["reasons"]:
        yield "rejected", ", ".join(f"{n:,} {reason}" for reason, n in rejects["reasons"].items())
    different = f"{words['different_words']:,} different, {words['words_seen_once']:,} of them once"
    yield "words", f"{words['running_words']:,}, {different}"
    odd = _listed(
        {c if c.isprintable() else f"U+{ord(c):04X}": n for c, n in words["odd_characters"].items()}
    )
    yield "characters", f"{len(words['characters'])} different; odd: {odd}"
    labels, markers = report["labels"], report["markers"]
    styles = labels["case"] | {
        "punctuated": labels["punctuated"],
        "with digits": labels["with_digits"],
    }
    shares = [f"{n / labels['labels']:.0%} {name}" for name, n in styles.items()]
    shares += [f"{name}: case={case}" for name, case in labels["case_of"].items() if case != "keep"]
    yield "labels", ", ".join(shares)
    yield "notes removed", _listed(markers["removed_by_cleaning"])
    left = {mark["marker"]: mark["utterances"] for mark in markers["left_in_labels"]}
    yield "notes left", _listed(left)
    repeats = {k.replace("_", " "): v["utterances"] for k, v in report["repeats"].items()}
    yield "repeats", ", ".join(f"{n:,} {kind}" for kind, n in repeats.items())
    for test in report["overlap"]:
        found, of = test["recordings_in_training"], test["recordings"]
        yield "overlap", f"{test['set']}: {found:,} of {of:,} recordings,"
        found, of = test["long_texts_in_training"], test["long_texts"]
        yield "", f"{found:,} of {of:,} texts of 5 words or more"
    tokens, speakers = report["tokens"], report["speakers"]
    context = f"is {tokens['context']:,}" if tokens["context"] else "is not known"
    yield (
        "tokens",
        f"{tokens['model']}: {tokens['audio_tokens_per_second']:.1f} audio and "
        f"{tokens['label_tokens_per_second']:.1f} label tokens a second; the longest utterance "
        f"takes {tokens['longest_sequence']:,} with the prompt, the decoder's context {context}",
    )
    if speakers is None:
        yield "speakers", "not named"
    else:
        most = max(speakers["most_utterances"].values()) / speakers["utterances_with_speaker"]
        yield "speakers", f"{speakers['speakers']:,}; the most frequent has {most:.0%} of them"


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{mark} {n:,}" for mark, n in list(counts.items())[:_SHOWN]]
    more = [f"{len(counts) - _SHOWN:,} more"] if len(counts) > _SHOWN else []
    return ", ".join([*shown, *more]) or "none"


def _print_bars(console: Console, histogram: dict[str, Any], title: str) -> None:
    edges, counts = rebin(histogram, _BARS)
    console.print(f"\n[bold]{title}[/bold]")
    digits = next((d for d in (0, 1) if all(abs(e - round(e, d)) < 1e-6 for e in edges)), 2)
    wide = len(f"{edges[-1]:.{digits}f}")
    for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True):
        bar = "█" * round(_BAR_WIDTH * n / max(counts)) or ("▏" if n else "")
        label = f"{low:>{wide}.{digits}f} to {high:>{wide}.{digits}f}"
        console.print(f"{label}  {bar:<{_BAR_WIDTH}} {n:,}", markup=False, highlight=False)


def _examples(report: dict[str, Any]) -> Iterator[str]:
    """One line for each of a few examples of what may be wrong."""
    for reason, found in report["rejects"]["examples"].items():
        for one in found[:2]:
            yield f"- rejected, {reason}: {one}"
    for kind in ("same_audio_and_text", "same_audio_other_text"):
        for one in report["repeats"][kind]["examples"][:2]:
            yield f"- {kind.replace('_', ' ')}: {one['id']} = {one['first']}"
    for test in report["overlap"]:
        for kind, examples in test["examples"].items():
            for one in examples[:2]:
                name = Path(test["set"]).name
                yield f"- overlap, {kind}: {one['training']} = {name}: {one['test']}"
    for mark in report["markers"]["left_in_labels"][:_SHOWN]:
        one = mark["examples"][0]
        yield f"- {mark['kind']} {mark['marker']}: {one['id']}: {one['text']}"
    for kind, extremes in report["characters_per_second"]["extremes"].items():
        for one in extremes[:2]:
            rate = f"{one['value']:.1f} a second"
            yield f"- {kind} character rate: {rate}, {one['id']}: {one['text']}"
