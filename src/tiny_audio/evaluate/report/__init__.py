"""An evaluation, or two side by side, as one HTML file that opens without a network.

The page is the template `page.html` with its style, its script and the data written in. Nothing
in it is loaded from elsewhere, and its content security policy lets no other script run, whatever
a text says. Tables and plots are written here; the list of utterances is built by the script.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile
from jinja2 import Environment, PackageLoader, StrictUndefined

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.decode import Mono
from tiny_audio.audio.io import load_audio
from tiny_audio.errors import AudioError, ConfigError, DataError
from tiny_audio.evaluate.comparison import breakdown_sections, compare, conclusion
from tiny_audio.evaluate.errors import confusions, forgive_homophones
from tiny_audio.evaluate.report.plots import Plot, Point, Series, bars, reliability
from tiny_audio.evaluate.results import Evaluation, Record, System, load_systems
from tiny_audio.evaluate.statistics import bootstrap, calibration, divide
from tiny_audio.evaluate.tables import LEGEND, figures_section, percent, share
from tiny_audio.evaluate.wer import UtteranceScore

MOST_SYSTEMS = 2  # in one report
TOP = 12  # confusions of a kind that are listed
STEPS = 10  # bars of the histogram up to 100 %
AUDIO_MODES = ("embed", "link", "none")
MEDIA_TYPE = "audio/ogg"  # Opus in Ogg, mono, about 27 kbit/s at 16 kHz
_LETTERS = {"equal": "=", "substitute": "s", "delete": "d", "insert": "i"}

# ------------------------------------------------------------------------------------- the page


def write_report(
    paths: Sequence[Path],
    *,
    out: Path,
    audio: str = "embed",
    audio_mb: float = 50.0,
    scoring: str | None = None,
) -> None:
    """`analysis report`: write the page of some results and say where it is.

    Raises:
        TinyAudioError: results cannot be read or compared, are of more than two systems, or the
            file cannot be written.
    """
    systems = load_systems(paths, scoring)
    if len(systems) > MOST_SYSTEMS:
        raise ConfigError(f"A report shows {MOST_SYSTEMS} systems at most, not {len(systems)}.")
    page, note = render(systems, out=out, audio=audio, audio_mb=audio_mb)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from None
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB{'; ' if note else ''}{note})")


def render(
    systems: Sequence[System], *, out: Path, audio: str = "none", audio_mb: float = 50.0
) -> tuple[str, str]:
    """The page of one system, or of two on their common utterances, and a note on its audio.

    Args:
        out: where the page will lie, for links to recordings.
        audio: ``embed`` (up to `audio_mb` megabytes, the worst utterances first), ``link`` or
            ``none``.
    """
    compared = compare(*systems) if len(systems) == MOST_SYSTEMS else None
    parts = [systems[0].evaluation] if compared is None else [compared.a, compared.b]
    names = [system.name for system in systems]
    both = list(zip(names, parts, strict=True))
    records = list(zip(*(evaluation.records for evaluation in parts), strict=True))
    scores = list(zip(*map(_record_scores, parts), strict=True))
    errors = [sum(0 if one is None else one.words.errors for one in row) for row in scores]
    worst = sorted(range(len(records)), key=lambda i: -errors[i])
    clips = collect_clips(
        [(i, records[i][0]) for i in worst],
        mode=audio,
        megabytes=audio_mb,
        folder=systems[0].folder,
        out=out,
    )
    rows = zip(records, scores, strict=True)
    utterances = [_utterance(*row) | clips.sources.get(i, {}) for i, row in enumerate(rows)]
    style, script = _read("page.css"), _read("page.js")
    page = (
        template_environment()
        .get_template("page.html")
        .render(
            policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
            "media-src data: file: 'self'; base-uri 'none'; form-action 'none'",
            title=" and ".join(names),
            subtitle=f"{len(utterances)} utterances, scoring {parts[0].score.rule}, "
            f"{date.today().isoformat()}",
            systems=both,
            summaries=[
                replace(figures_section(evaluation, f"{name}: by set"), note=LEGEND)
                for name, evaluation in both
            ],
            conclusion=None if compared is None else conclusion(compared),
            comparison=[] if compared is None else list(breakdown_sections(compared)),
            plots=list(_plots(both)),
            audio_note=clips.note(),
            data={"systems": names, "media": MEDIA_TYPE, "utterances": utterances},
            clips=clips.embedded,
            style=style,
            script=script,
        )
    )
    return page, clips.note()


def template_environment() -> Environment:
    """Templates of the page; every value is escaped, and JSON may stand in a script element."""
    environment = Environment(
        loader=PackageLoader("tiny_audio.evaluate", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.globals |= {
        "share": share,
        "bootstrap": bootstrap,
        "confusions": confusions,
        "forgive_homophones": forgive_homophones,
        "top": TOP,
    }
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _read(name: str) -> str:
    return files("tiny_audio.evaluate.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


# -------------------------------------------------------------------------------- what it shows


def _plots(both: Sequence[tuple[str, Evaluation]]) -> Iterator[Plot]:
    """Error rate by duration and by noise, its spread, and whether confidence means anything."""
    yield _wer_by("WER by duration", "seconds of audio", "duration", both)
    if any(record.snr is not None for _, evaluation in both for record in evaluation.scored):
        yield _wer_by("WER by signal-to-noise ratio", "estimated SNR", "snr", both)
    labels = ["0"] + [f"≤ {100 * step // STEPS}" for step in range(1, STEPS + 1)] + ["> 100"]
    series = []
    for name, evaluation in both:
        rates = [one.wer for one in evaluation.score.utterances if one.wer is not None]
        counts = Counter(min(-int(-rate * STEPS // 1), STEPS + 1) for rate in rates)
        series.append(Series(name, [share(counts[i], len(rates)) for i in range(len(labels))]))
    yield bars("Utterances by their WER", "WER of the utterance, %", labels, series)
    curves = [
        (
            name,
            [
                Point(bin_["confidence"], bin_["correct"], bin_["utterances"])
                for bin_ in calibration(evaluation)["bins"]
                if bin_["utterances"]
            ],
        )
        for name, evaluation in both
    ]
    if any(points for _, points in curves):
        title = "Reliability: utterances wholly right, by confidence"
        yield reliability(title, "mean confidence of a bin", curves)


def _wer_by(title: str, x_name: str, kind: str, both: Sequence[tuple[str, Evaluation]]) -> Plot:
    divided = [(name, divide(evaluation, kind)) for name, evaluation in both]
    labels = list(dict.fromkeys(label for _, found in divided for label in found))
    series = []
    for name, found in divided:
        parts = [found.get(label) for label in labels]
        values = [None if part is None else part.score.wer for part in parts]
        intervals = [None if part is None else bootstrap(part).intervals["wer"] for part in parts]
        series.append(Series(name, values, intervals))
    return bars(title, x_name, labels, series)


def _utterance(
    records: Sequence[Record], scores: Sequence[UtteranceScore | None]
) -> dict[str, Any]:
    """One row of the list; short values, as there may be ten thousand."""
    record = records[0]
    found = {
        "id": record.id,
        "set": record.set or record.source,
        "speaker": record.speaker,
        "seconds": round(record.duration, 2),
        "snr": None if record.snr is None else round(record.snr, 1),
        "raw": record.reference,
        "reference": "" if scores[0] is None else scores[0].reference,
        "hypotheses": [_hypothesis(*pair) for pair in zip(records, scores, strict=True)],
    }
    return {key: value for key, value in found.items() if value is not None}


def _hypothesis(record: Record, score: UtteranceScore | None) -> dict[str, Any]:
    """What one system made of an utterance: a letter a step, and the words that are not equal."""
    if score is None:
        return {"error": record.error, "message": record.message or ""}
    found: dict[str, Any] = {
        "raw": record.hypothesis,
        "steps": "".join(_LETTERS[step.op] for step in score.alignment),
        "words": [s.hypothesis for s in score.alignment if s.op in ("substitute", "insert")],
    }
    if record.logprob is not None:
        found["logprob"] = round(record.logprob, 3)
    if not record.finished:
        found["cut"] = True
    return found


def _record_scores(evaluation: Evaluation) -> list[UtteranceScore | None]:
    """The score of each record, None where it failed."""
    found = iter(evaluation.score.utterances)
    return [None if record.error is not None else next(found) for record in evaluation.records]


# -------------------------------------------------------------------------------------- recordings


@dataclass
class Clips:
    """Recordings by position of the utterance; `left_out` counts those without one, by reason.

    sources: what the page's script needs: ``clip`` (embedded), ``link`` (relative to the report)
    with ``part`` (seconds: from, to), or ``address`` (http(s), which nothing loads).
    """

    embedded: dict[int, str] = field(default_factory=dict)  # base64 of MEDIA_TYPE
    sources: dict[int, dict[str, Any]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """What the reader of the report should know about its recordings."""
        kinds = Counter(kind for source in self.sources.values() for kind in source)
        parts = []
        if self.embedded:
            size = sum(map(len, self.embedded.values())) / 1e6
            parts.append(f"{len(self.embedded)} recordings embedded ({size:.1f} MB, Opus)")
        if kinds["link"]:
            parts.append(f"{kinds['link']} linked, to be heard while the files stay in place")
        if kinds["address"]:
            parts.append(f"{kinds['address']} by address")
        parts += [f"{count} left out: {reason}" for reason, count in self.left_out.items()]
        return "; ".join(parts)


def collect_clips(
    records: Iterable[tuple[int, Record]], *, mode: str, megabytes: float, folder: Path, out: Path
) -> Clips:
    """Find the recordings of utterances, given with their positions, the most wanted first.

    Args:
        mode: of AUDIO_MODES. Embedding goes on until `megabytes` (10^6 bytes of the page) are
            full; what does not fit is linked.
        folder: where relative paths may start, besides the working directory.
        out: the report, to which links are relative.

    Raises:
        ConfigError: there is no such mode.
    """
    if mode not in AUDIO_MODES:
        raise ConfigError(f"--audio {mode} is unknown: choose {', '.join(AUDIO_MODES)}.")
    clips = Clips()
    load = lru_cache(maxsize=1)(load_audio)  # several utterances may lie in one recording
    room = int(megabytes * 1e6) if mode == "embed" else 0
    for position, record in records if mode != "none" else ():
        if record.audio is None:
            clips.left_out["no recording is named"] += 1
            continue
        if "://" in record.audio:
            clips.sources[position] = {"address": record.audio}
            continue
        candidates = (Path(record.audio).expanduser(), folder / record.audio)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            clips.left_out["the file is not there"] += 1
            continue
        try:
            text = _encode(load(path), record) if room > 0 else ""
        except AudioError as error:
            clips.left_out[error.reason] += 1
            continue
        fits = 0 < len(text) <= room
        room = room - len(text) if fits else 0
        if fits:
            clips.embedded[position] = text
            clips.sources[position] = {"clip": True}
            continue
        link = quote(os.path.relpath(path.resolve(), out.parent.resolve()))
        clips.sources[position] = {"link": link}
        if record.offset is not None:
            part = (record.offset, record.offset + record.duration)
            clips.sources[position]["part"] = part
    return clips


def _encode(waveform: Mono, record: Record) -> str:
    """The part of a recording [S] in which an utterance lies, as base64 of Opus in Ogg."""
    if record.offset is not None:
        first = round(record.offset * SAMPLE_RATE)
        waveform = waveform[first : first + round(record.duration * SAMPLE_RATE)]
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), SAMPLE_RATE, format="OGG", subtype="OPUS")
    return base64.b64encode(file.getvalue()).decode("ascii")
