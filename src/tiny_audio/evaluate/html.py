"""An evaluation, or two side by side, as one HTML file that opens without a network.

The page is `page/report.html` with its style, its script and the data written in. Nothing in it is
loaded from elsewhere, and its content security policy lets no other script run, whatever a text
says. Tables and plots are written here; the list of utterances is built by the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.clips import MEDIA_TYPE, Clips, collect
from tiny_audio.evaluate.compare import Comparison, compare
from tiny_audio.evaluate.panels import comparison_panel, confusion_panel, plot_panel, summary_panel
from tiny_audio.evaluate.records import Evaluation, Record
from tiny_audio.evaluate.systems import System, load_systems
from tiny_audio.evaluate.wer import UtteranceScore

MOST = 2  # systems in one report
_UNSAFE = re.compile("[<>&\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LETTERS = {"equal": "=", "substitute": "s", "delete": "d", "insert": "i"}


def report_command(
    paths: Sequence[Path],
    *,
    out: Path,
    audio: str = "embed",
    audio_mb: float = 50.0,
    scoring: str | None,
) -> Path:
    """`analysis report`: write the page and say where it is.

    Raises:
        TinyAudioError: results cannot be read or compared, are of more than two systems, or the
            file cannot be written.
    """
    systems = load_systems(paths, scoring)
    if len(systems) > MOST:
        raise ConfigError(f"A report shows {MOST} systems at most, not {len(systems)}.")
    page, note = report(systems, out=out, audio=audio, audio_mb=audio_mb)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from None
    print(f"{out} ({len(page.encode()) / 1e6:.1f} MB{'; ' if note else ''}{note})")
    return out


def report(
    systems: Sequence[System], *, out: Path, audio: str = "none", audio_mb: float = 50.0
) -> tuple[str, str]:
    """The page of one system, or of two on their common utterances, and a note on its audio.

    Args:
        out: where the page will lie, for links to recordings.
        audio: ``embed`` (up to `audio_mb` megabytes, the worst utterances first), ``link`` or
            ``none``.
    """
    compared = compare(*systems) if len(systems) == MOST else None
    first = systems[0]
    records = first.evaluation.records if compared is None else compared.a.records
    parts = [first.evaluation] if compared is None else [compared.a, compared.b]
    rows = [_scores(evaluation) for evaluation in parts]
    worst = sorted(range(len(records)), key=lambda i: -sum(_errors(row[i]) for row in rows))
    clips = collect(
        ((i, records[i]) for i in worst),
        mode=audio,
        megabytes=audio_mb,
        folder=first.folder,
        out=out,
    )
    names = [system.name for system in systems]
    data = {
        "systems": names,
        "media": MEDIA_TYPE,
        "utterances": [
            _utterance(
                place, [e.records[place] for e in parts], [row[place] for row in rows], clips
            )
            for place in range(len(records))
        ],
    }
    return _page(names, parts, compared, data, clips), clips.note()


def _page(
    names: Sequence[str],
    parts: Sequence[Evaluation],
    compared: Comparison | None,
    data: Mapping[str, Any],
    clips: Clips,
) -> str:
    style, script = _read("report.css"), _read("report.js")
    title = " and ".join(names)
    filled = {
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "media-src data: file: 'self'; base-uri 'none'; form-action 'none'",
        "title": escape(title),
        "subtitle": escape(
            f"{len(data['utterances'])} utterances, scoring {parts[0].score.rule}, "
            f"{date.today().isoformat()}"
        ),
        "summary": summary_panel(names, parts),
        "comparison": "" if compared is None else comparison_panel(compared),
        "plots": plot_panel(names, parts),
        "confusions": confusion_panel(names, parts),
        "audio": escape(clips.note()),
        "data": embedded_json(data),
        "clips": "".join(
            f'<script type="text/plain" id="clip-{place}">{text}</script>\n'
            for place, text in clips.embedded.items()
        ),
        "style": style,
        "script": script,
    }
    pieces = _read("report.html").split("{{")
    page = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        page += [filled[name], rest]
    return "".join(page)


def embedded_json(data: object) -> str:
    """JSON that may stand in a script element: no tag and no comment can begin in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _utterance(
    place: int, records: Sequence[Record], scores: Sequence[UtteranceScore | None], clips: Clips
) -> dict[str, Any]:
    """One row of the list; short keys, as there may be ten thousand."""
    record = records[0]
    found: dict[str, Any] = {
        "id": record.id,
        "set": record.set or record.source,
        "speaker": record.speaker,
        "seconds": round(record.duration, 2),
        "snr": None if record.snr is None else round(record.snr, 1),
        "raw": record.reference,
        "said": "" if scores[0] is None else scores[0].reference,
        "heard": [_heard(one, score) for one, score in zip(records, scores, strict=True)],
    }
    if place in clips.embedded:
        found["clip"] = True
    found["link"] = clips.links.get(place)
    found["address"] = clips.addresses.get(place)
    found["part"] = clips.starts.get(place)
    return {key: value for key, value in found.items() if value is not None}


def _heard(record: Record, score: UtteranceScore | None) -> dict[str, Any]:
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


def _scores(evaluation: Evaluation) -> list[UtteranceScore | None]:
    """The score of each record, None where it failed."""
    found = iter(evaluation.score.utterances)
    return [None if record.error is not None else next(found) for record in evaluation.records]


def _errors(score: UtteranceScore | None) -> int:
    return 0 if score is None else score.words.errors


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _read(name: str) -> str:
    return files("tiny_audio.evaluate").joinpath("page", name).read_text(encoding="utf-8")
