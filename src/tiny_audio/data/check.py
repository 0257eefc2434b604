"""A set before it is trained on: `tiny-audio data check`.

records ─► the same decoding, cleaning and limits as in training ─► statistics and fingerprints
        ─► check.json, a report on the terminal
"""

from __future__ import annotations

import heapq
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tiny_audio.config import Config
from tiny_audio.data import prepare
from tiny_audio.data.records import EXAMPLES, RejectCounts, Source, Utterance, stable_hash
from tiny_audio.data.sources import open_set, open_sources, training_settings
from tiny_audio.errors import DataError
from tiny_audio.model.build import Lengths, lengths_of
from tiny_audio.model.checkpoint import find_checkpoint, read_config
from tiny_audio.text.labels import LabelRules
from tiny_audio.text.scoring import basic

LONG_TEXT = 5  # words; shorter sentences are said independently of each other
_LISTED, _SHOWN = 1_000, 8  # of the most frequent words and so on: in check.json, on the terminal
_QUANTILES = {"min": 0.0, "p01": 0.01, "median": 0.5, "p99": 0.99, "max": 1.0}
_BRACKETS = r"<[^<>]{0,60}>|\[[^\[\]]{0,60}\]|\([^()]{0,60}\)|\{[^{}]{0,60}\}"
# Searched for in labels, after cleaning: what is found here would be learned.
_MARKERS = re.compile(
    rf"""{_BRACKETS} | [<>\[\](){{}}]
    | (?P<sign>[^\w\s.])(?P=sign){{2,}} | \.{{4,}} | _{{2,}}
    | (?P<letter>[^\W\d_])(?P=letter){{3,}}
    | \b(?P<word>\w+)(?:\W+(?P=word)\b){{3,}}
    | ^(?:nan|null|none|n/a|unk|todo|tbd)$ | (?<!\w)(?:unk|xxx+|yyy+|www)(?!\w)
    | &(?:\w{{2,8}}|\#\d{{1,6}}); | https?://\S* | \bwww\.\S* | \\[ntr"] | [*~^|\\]
    | (?-i: \N{{REPLACEMENT CHARACTER}} | Ã[\x80-¿] | â€.? | Â[\x80-¿\ ])  # of a wrong encoding
    """,
    re.IGNORECASE | re.VERBOSE,
)


def check_command(
    data: str,
    settings: Sequence[str],
    *,
    limit: int | None = None,
    out: Path | None = None,
    against: Sequence[str] = (),
    model: str = "nano",
) -> dict[str, Any]:
    """`tiny-audio data check`: report on a set, on the terminal and in `out`/check.json.

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
    typed = "DATA" if Path(data).expanduser().exists() else None
    sources = open_sources(specs, key="data.train", typed=typed)
    tests = {name: open_set(name, "--against") for name in against}
    lengths, now = lengths_of(config.model, folder), datetime.now(UTC)
    found = check_set(config, sources, lengths, tests, limit)
    about = {"data": data, "limit": limit, "settings": [*settings]}
    report = {**about, "date": now.isoformat(timespec="seconds"), **found}
    out = out or Path("runs", f"check-{now:%Y%m%d-%H%M%S}")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / "check.json").write_text(text + "\n", encoding="utf-8")
    console = Console(markup=False, highlight=False)
    print_check(report, console)
    console.print(f"written: {out / 'check.json'}")
    return report


def check_set(
    config: Config,
    sources: Sequence[Source],
    lengths: Lengths,
    tests: Mapping[str, Sequence[Source]],
    limit: int | None,
) -> dict[str, Any]:
    """Read a set as training would, and report on it in plain values.

    Raises DataError for a source without end, unless there is a limit, and where not one sample
    can be used.
    """
    data, workers = config.data, config.data.num_workers
    anything = prepare.Preparer(LabelRules(allow_empty=True), min_seconds=0.0, max_seconds=math.inf)
    tested = {
        name: Fingerprints(_read(test, None, anything, workers)) for name, test in tests.items()
    }
    prepare.settle_case(data.labels, prepare.sample_labels(sources, data.labels))
    limits = prepare.TokenLimits(lengths.prompt, lengths.audio_tokens, data.max_label_tokens)
    budget = config.training.batch_seconds
    budget = math.inf if budget == "auto" else budget  # chosen in training
    rules, quality = prepare.label_rules(data.labels), prepare.quality_limits(data)
    preparer = prepare.Preparer(rules, data.min_seconds, data.max_seconds, quality)
    statistics, prints, rejects = Statistics(lengths), Fingerprints(), RejectCounts()
    for result in _read(sources, limit, preparer, workers):
        rejects.seen += 1
        if isinstance(result, Utterance):
            result = limits.check(result, budget) or result
        if isinstance(result, Utterance):
            statistics.add(result)
            prints.add(result)
        else:
            rejects.add(result)
    if rejects.total == rejects.seen:
        raise DataError(f"No sample of the data can be used: {rejects.why()}.")
    overlap = {
        f"{kind} of {name}": pairs
        for name, test in tested.items()
        for kind, pairs in prints.overlap(test).items()
    }
    findings = [
        *(("overlap", ids, f"{what} are in this set, too") for what, ids in overlap.items()),
        *(("repeat", ids, f"utterances came before, {how}") for how, ids in prints.repeats.items()),
        ("marker", statistics.marked, "labels hold what may not have been said"),
        ("context", statistics.too_long, f"utterances are over {lengths.context} tokens long"),
    ]
    figures = statistics.figures() | {
        "repeats": {kind: len(ids) for kind, ids in prints.repeats.items()},
        "overlap": {what: len(ids) for what, ids in overlap.items()},
        "case_of": data.labels.case_of,
    }
    listed = [
        {"kind": kind, "count": len(ids), "message": f"{len(ids):,} {message}"}
        | {"examples": ids[:EXAMPLES]}
        for kind, ids, message in findings
        if ids
    ]
    return {"figures": figures, "findings": listed, "rejects": rejects.to_dict()}


def _read(
    sources: Sequence[Source], limit: int | None, preparer: prepare.Preparer, num_workers: int
) -> Iterator[prepare.Result]:
    """What becomes of the records; progress is shown on standard error."""
    for source in sources:
        if source.endless and limit is None:
            raise DataError(f"The data source {source.name!r} is endless: set --limit.")
    records = chain.from_iterable(islice(source.records(), limit) for source in sources)
    decoded = prepare.decode(zip(records, repeat(None)), preparer, num_workers)
    for result, _ in track(decoded, "reading", console=Console(stderr=True), transient=True):
        yield result


class Statistics:
    """What is counted over the usable utterances, for the model whose `lengths` these are."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._values = {"seconds": array("d"), "characters_per_second": array("d")}
        kinds = ("words", "characters", "notes_removed", "notes_left", "speakers")
        self._counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        self._sources: dict[str, dict[str, float]] = {}
        self._slowest: list[tuple[float, str, str]] = []
        self._fastest: list[tuple[float, str, str]] = []
        self._audio_tokens = self._label_tokens = 0
        self._longest = (0, "")  # tokens, id
        self.too_long: list[str] = []  # ids of those that do not fit into the context
        self.marked: list[str] = []  # ids of labels with notes left

    def add(self, utterance: Utterance) -> None:
        """Count an utterance."""
        label, seconds, counts = utterance.text, utterance.seconds, self._counts
        rated = (len(label) / seconds, utterance.id, label)
        self._values["seconds"].append(seconds)
        self._values["characters_per_second"].append(rated[0])
        self._slowest = heapq.nsmallest(EXAMPLES, [*self._slowest, rated])
        self._fastest = heapq.nlargest(EXAMPLES, [*self._fastest, rated])
        source = self._sources.setdefault(utterance.source, {"utterances": 0, "hours": 0.0})
        source["utterances"] += 1
        source["hours"] += seconds / 3600
        if utterance.speaker is not None:
            counts["speakers"][f"{utterance.source}/{utterance.speaker}"] += 1
        counts["characters"].update(label)
        words = (word.strip(".,?!;:\"'-") for word in label.casefold().split())
        counts["words"].update(word for word in words if word)
        notes = re.findall(_BRACKETS, str(utterance.extra["transcript"]).casefold())
        counts["notes_removed"].update({note for note in notes if note not in label.casefold()})
        if found := markers(label):
            counts["notes_left"].update(found)
            self.marked.append(utterance.id)
        n_audio = self._lengths.audio_tokens(len(utterance.waveform))
        ids, n_prompt = self._lengths.prompt.training(n_audio, label)
        self._audio_tokens += n_audio
        self._label_tokens += len(ids) - n_prompt
        self._longest = max(self._longest, (len(ids), utterance.id))
        if self._lengths.context is not None and len(ids) > self._lengths.context:
            self.too_long.append(utterance.id)

    def figures(self) -> dict[str, Any]:
        """Plain values for JSON."""
        seconds = sum(self._values["seconds"])
        quantiles = {
            name: dict(zip(_QUANTILES, np.quantile(values, [*_QUANTILES.values()]), strict=True))
            for name, values in self._values.items()
        }
        return {
            "utterances": len(self._values["seconds"]),
            "hours": seconds / 3600,
            "sources": self._sources,
            **quantiles,
            "slowest": self._slowest,
            "fastest": self._fastest,
            "running_words": self._counts["words"].total(),
            "different_words": len(self._counts["words"]),
            **{name: dict(found.most_common(_LISTED)) for name, found in self._counts.items()},
            "tokens": {
                "of": self._lengths.name,
                "audio_per_second": self._audio_tokens / seconds,
                "label_per_second": self._label_tokens / seconds,
                "longest": self._longest,
                "context": self._lengths.context,
            },
        }


def markers(label: str) -> set[str]:
    """What in a label may not have been said."""
    return {found[0].casefold() for found in _MARKERS.finditer(label)}


def audio_print(waveform: npt.NDArray[np.float32]) -> int | None:
    """A number in [0, 2**64) for a waveform [S], None for silence."""
    samples = np.clip(np.rint(waveform * 2.0**15), -(2**15), 2**15 - 1).astype("<i2")
    sounding = np.flatnonzero(samples)
    if not len(sounding):
        return None
    return stable_hash(samples[sounding[0] : sounding[-1] + 1].tobytes())


class Fingerprints:
    """The audio and the long texts of a set, to find repeats in it and test sets that leak in.

    Audio is the same in another container or lossless codec, padded with silence, and on equal
    channels; not after a lossy codec, at another volume or rate, or cut elsewhere.
    """

    def __init__(self, results: Iterable[prepare.Result] = ()) -> None:
        self._audio: dict[int, tuple[str, str]] = {}  # print -> id and text of the first
        self._texts: dict[str, str] = {}  # LONG_TEXT words or more -> id of the first
        # Audio that came before, as "id = id of the first", by kind
        self.repeats: dict[str, list[str]] = {
            "same audio and text": [],
            "same audio with another text": [],
        }
        for result in results:
            if isinstance(result, Utterance):
                self.add(result)

    def add(self, utterance: Utterance) -> None:
        """Add one utterance; case and punctuation of its text do not count."""
        name, text = utterance.id, " ".join(basic(utterance.text).split())
        audio = audio_print(utterance.waveform)
        if len(text.split()) >= LONG_TEXT:
            self._texts.setdefault(text, name)
        if audio in self._audio:
            first, said = self._audio[audio]
            kind = "same audio and text" if said == text else "same audio with another text"
            self.repeats[kind].append(f"{name} = {first}")
        elif audio is not None:
            self._audio[audio] = name, text

    def overlap(self, test: Fingerprints) -> dict[str, list[str]]:
        """Recordings and long texts of a test set that are in this set, as "id = id there"."""
        audio, texts = test._audio, test._texts
        return {
            "recordings": [
                f"{n} = {audio[k][0]}" for k, (n, _) in self._audio.items() if k in audio
            ],
            "long texts": [f"{n} = {texts[k]}" for k, n in self._texts.items() if k in texts],
        }


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
    for found in report["findings"]:
        console.print(f"- {found['kind']}: {found['message']} (such as {found['examples'][0]})")


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
