"""An evaluation, or two side by side, as one HTML file that opens without a network.

The page is the template `page.html` with its style, script and data written in. Nothing is loaded
from elsewhere, and the content security policy lets no other script run, whatever a text says.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from tiny_audio.evaluate.errors import confusions, homophones
from tiny_audio.evaluate.results import Evaluation, Record, load_systems
from tiny_audio.evaluate.statistics import bootstrap, calibration, divide, share
from tiny_audio.evaluate.tables import LEGEND, figures_section, percent, with_interval
from tiny_audio.evaluate.wer import UtteranceScore

MOST_SYSTEMS = 2  # in one report
TOP = 12  # confusions of a kind that are listed
AUDIO_MODES = ("embed", "link", "none")
MEDIA_TYPE = "audio/ogg"  # Opus in Ogg, mono, about 27 kbit/s at 16 kHz
Rows = list[tuple[str, list[tuple[float, str]]]]  # a label and, by system, a share and its text

_LETTERS = {"equal": "=", "substitute": "s", "delete": "d", "insert": "i"}


def write_report(
    paths: Sequence[Path],
    *,
    out: Path,
    audio: str = "embed",
    audio_mb: float = 50.0,
    scoring: str | None = None,
) -> None:
    """Write the page of one or two systems and say where it is; TinyAudioError where it cannot."""
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
    systems: Mapping[str, Evaluation], *, out: Path, audio: str = "none", audio_mb: float = 50.0
) -> tuple[str, str]:
    """The page of one system, or of two on their common utterances, and a note on its audio.

    out: where the page will lie, for links to recordings. audio: ``embed`` (up to `audio_mb` times
    10^6 bytes of the page, the worst utterances first; the rest is linked), ``link`` or ``none``.
    """
    compared = compare(systems) if len(systems) == MOST_SYSTEMS else None
    parts = list(systems.values()) if compared is None else [compared.a, compared.b]
    both = dict(zip(systems, parts, strict=True))
    records = list(zip(*(part.records for part in parts), strict=True))
    scores = list(zip(*(part.scores for part in parts), strict=True))
    errors = [sum(one.words.errors for one in row if one is not None) for row in scores]
    worst = sorted(range(len(records)), key=lambda i: -errors[i])
    recorded = [row[0] for row in records]
    embedded, sources, note = collect_clips(recorded, worst, audio, audio_mb, out)
    rows = zip(records, scores, strict=True)
    utterances = [_utterance(*row) | sources.get(i, {}) for i, row in enumerate(rows)]
    environment = Environment(
        loader=PackageLoader("tiny_audio.evaluate", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    folder = files("tiny_audio.evaluate.report")
    style, script = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    page = environment.get_template("page.html").render(
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "media-src data: file: 'self'; base-uri 'none'; form-action 'none'",
        title=" and ".join(both),
        subtitle=f"{len(utterances)} utterances, scoring {parts[0].rule}, {date.today()}",
        systems=list(both.items()),
        summaries=[
            replace(figures_section(evaluation, f"{name}: by set"), note=LEGEND)
            for name, evaluation in both.items()
        ],
        conclusion=None if compared is None else conclusion(compared),
        comparison=[] if compared is None else list(breakdown_sections(compared)),
        charts=list(_charts(both)),
        share=share,
        bootstrap=bootstrap,
        confusions=confusions,
        homophones=homophones,
        top=TOP,
        audio_note=note,
        data={"systems": list(both), "media": MEDIA_TYPE, "utterances": utterances},
        clips=embedded,
        style=style,
        script=script,
    )
    return page, note


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


# -------------------------------------------------------------------------------- what it shows


def _charts(both: Mapping[str, Evaluation]) -> Iterator[tuple[str, str, Rows]]:
    """Title, what a row is, and the rows: WER by duration, and what confidence means."""
    divided = [divide(evaluation, "duration") for evaluation in both.values()]
    labels = dict.fromkeys(label for found in divided for label in found)
    rows = [(label, [_bar(found.get(label)) for found in divided]) for label in labels]
    yield "WER by duration", "audio", rows
    correct = [
        {f"{one['low']:.0%}": one["correct"] for one in calibration(evaluation)["bins"]}
        for evaluation in both.values()
    ]
    labels = dict.fromkeys(sorted(label for found in correct for label in found))
    rows = [
        (f"from {label}", [(found.get(label, 0.0), percent(found.get(label))) for found in correct])
        for label in labels
    ]
    if rows:
        yield "Utterances without an error, by confidence", "confidence", rows


def _bar(part: Evaluation | None) -> tuple[float, str]:
    if part is None:
        return 0.0, "-"
    return part.score.wer or 0.0, with_interval(part, "wer")


def _utterance(
    records: Sequence[Record], scores: Sequence[UtteranceScore | None]
) -> dict[str, Any]:
    """One row of the list; short values, as there may be ten thousand."""
    record = records[0]
    return {
        "id": record.id,
        "set": record.set or record.source,
        "speaker": record.speaker,
        "seconds": round(record.duration, 2),
        "raw": record.reference,
        "reference": "" if scores[0] is None else scores[0].reference,
        "hypotheses": [_hypothesis(*pair) for pair in zip(records, scores, strict=True)],
    }


def _hypothesis(record: Record, score: UtteranceScore | None) -> dict[str, Any]:
    """What one system made of an utterance: a letter a step, and the words that are not equal."""
    if score is None:
        return {"error": record.error, "message": record.message or ""}
    return {
        "raw": record.hypothesis,
        "steps": "".join(_LETTERS[step.op] for step in score.alignment),
        "words": [s.hypothesis for s in score.alignment if s.op in ("substitute", "insert")],
        "logprob": None if record.logprob is None else round(record.logprob, 3),
        "cut": not record.finished,
    }


# -------------------------------------------------------------------------------------- recordings


def collect_clips(
    records: Sequence[Record], order: Sequence[int], mode: str, megabytes: float, out: Path
) -> tuple[dict[int, str], dict[int, dict[str, Any]], str]:
    """Find the recordings of utterances, in some order of positions.

    Returns base64 of MEDIA_TYPE of those that are embedded; what the page's script needs: ``clip``
    (embedded), ``link`` (relative to the page) with ``part`` (seconds: from, to), or ``address``
    (http(s), which nothing loads); and a note for the reader.
    """
    if mode not in AUDIO_MODES:
        raise ConfigError(f"--audio {mode} is unknown: choose {', '.join(AUDIO_MODES)}.")
    embedded: dict[int, str] = {}
    sources: dict[int, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    load = lru_cache(maxsize=1)(load_audio)  # several utterances may lie in one recording
    room = int(megabytes * 1e6) if mode == "embed" else 0
    for position in order if mode != "none" else ():
        record = records[position]
        if record.audio is None:
            counts["left out: no recording is named"] += 1
            continue
        if "://" in record.audio:
            sources[position] = {"address": record.audio}
            counts["by address"] += 1
            continue
        path = Path(record.audio)
        if not path.is_file():
            counts["left out: the file is not there"] += 1
            continue
        try:
            text = _encode(load(path), record) if room > 0 else ""
        except AudioError as error:
            counts[f"left out: {error.reason}"] += 1
            continue
        if 0 < len(text) <= room:
            room -= len(text)
            embedded[position] = text
            sources[position] = {"clip": True}
            counts["recordings embedded"] += 1
            continue
        room = 0
        sources[position] = {"link": quote(os.path.relpath(path.resolve(), out.parent.resolve()))}
        if record.offset is not None:
            sources[position]["part"] = (record.offset, record.offset + record.duration)
        counts["linked, to be heard while the files stay in place"] += 1
    return embedded, sources, "; ".join(f"{count} {kind}" for kind, count in counts.items())


def _encode(waveform: Mono, record: Record) -> str:
    """The part of a recording [S] in which an utterance lies, as base64 of Opus in Ogg."""
    if record.offset is not None:
        first = round(record.offset * SAMPLE_RATE)
        waveform = waveform[first : first + round(record.duration * SAMPLE_RATE)]
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), SAMPLE_RATE, format="OGG", subtype="OPUS")
    return base64.b64encode(file.getvalue()).decode("ascii")
