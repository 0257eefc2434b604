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
from collections.abc import Callable, Mapping, Sequence
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
from tiny_audio.evaluate.results import Evaluation, Record
from tiny_audio.evaluate.statistics import bootstrap, share
from tiny_audio.evaluate.tables import LEGEND, figures_section, percent
from tiny_audio.evaluate.wer import UtteranceScore

MOST_SYSTEMS = 2  # in one report
TOP = 12  # confusions of a kind that are listed
MEDIA_TYPE = "audio/ogg"  # Opus in Ogg, mono, about 27 kbit/s at 16 kHz


def write_report(systems: Mapping[str, Evaluation], *, out: Path, audio_mb: float = 50.0) -> None:
    """Write the page of one or two systems and say where it is; TinyAudioError where it cannot."""
    if len(systems) > MOST_SYSTEMS:
        raise ConfigError(f"A report shows {MOST_SYSTEMS} systems at most, not {len(systems)}.")
    page, note = render(systems, out=out, audio_mb=audio_mb)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from None
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB{'; ' if note else ''}{note})")


def render(
    systems: Mapping[str, Evaluation], *, out: Path, audio_mb: float = 50.0
) -> tuple[str, str]:
    """The page of one system, or of two on their common utterances, and a note on its audio.

    out: where the page will lie, for links to recordings. Up to `audio_mb` times 10^6 bytes of the
    page are recordings, those of the worst utterances first; the rest is linked.
    """
    compared = compare(systems) if len(systems) == MOST_SYSTEMS else None
    parts = list(systems.values()) if compared is None else [compared.a, compared.b]
    both = dict(zip(systems, parts, strict=True))
    records = list(zip(*(part.records for part in parts), strict=True))
    scores = list(zip(*(part.scores for part in parts), strict=True))
    errors = [sum(one.words.errors for one in row if one is not None) for row in scores]
    worst = sorted(range(len(records)), key=lambda i: -errors[i])
    embedded, sources, note = collect_clips([row[0] for row in records], worst, audio_mb, out)
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
            replace(figures_section(evaluation, f"{name}: by {kind}", kind), note="")
            for name, evaluation in both.items()
            for kind in ("set", "duration")
        ],
        conclusion=None if compared is None else conclusion(compared),
        comparison=[] if compared is None else list(breakdown_sections(compared)),
        legend=LEGEND,
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
        "steps": "".join("=" if step.op == "equal" else step.op[0] for step in score.alignment),
        "words": [s.hypothesis for s in score.alignment if s.op in ("substitute", "insert")],
        "logprob": None if record.logprob is None else round(record.logprob, 3),
        "cut": not record.finished,
    }


# -------------------------------------------------------------------------------------- recordings


def collect_clips(
    records: Sequence[Record], order: Sequence[int], megabytes: float, out: Path
) -> tuple[dict[int, str], dict[int, dict[str, Any]], str]:
    """Find the recordings of utterances, in some order of positions.

    Returns base64 of MEDIA_TYPE of those that are embedded; what the page's script needs: ``clip``
    (embedded), ``link`` (relative to the page) with ``part`` (seconds: from, to), or ``address``
    (http(s), which nothing loads); and a note for the reader.
    """
    embedded: dict[int, str] = {}
    sources: dict[int, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    load = lru_cache(maxsize=1)(load_audio)  # several utterances may lie in one recording
    room = int(megabytes * 1e6)
    for position in order:
        kind, sources[position], text = _clip(records[position], load, room, out)
        counts[kind] += 1
        if text:
            embedded[position] = text
        room = 0 if "link" in sources[position] else room - len(text)
    return embedded, sources, "; ".join(f"{count} {kind}" for kind, count in counts.items())


def _clip(
    record: Record, load: Callable[[Path], Mono], room: int, out: Path
) -> tuple[str, dict[str, Any], str]:
    """What becomes of one recording, see `collect_clips`: its kind, its source, its base64."""
    if record.audio is None:
        return "left out: no recording is named", {}, ""
    if "://" in record.audio:
        return "by address", {"address": record.audio}, ""
    path = Path(record.audio)
    if not path.is_file():
        return "left out: the file is not there", {}, ""
    try:
        text = _encode(load(path), record) if room > 0 else ""
    except AudioError as error:
        return f"left out: {error.reason}", {}, ""
    if 0 < len(text) <= room:
        return "recordings embedded", {"clip": True}, text
    source: dict[str, Any] = {"link": quote(os.path.relpath(path.resolve(), out.parent.resolve()))}
    if record.offset is not None:
        source["part"] = (record.offset, record.offset + record.duration)
    return "linked, to be heard while the files stay in place", source, ""


def _encode(waveform: Mono, record: Record) -> str:
    """The part of a recording [S] in which an utterance lies, as base64 of Opus in Ogg."""
    if record.offset is not None:
        first = round(record.offset * SAMPLE_RATE)
        waveform = waveform[first : first + round(record.duration * SAMPLE_RATE)]
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), SAMPLE_RATE, format="OGG", subtype="OPUS")
    return base64.b64encode(file.getvalue()).decode("ascii")
