"""Recordings for the report: embedded in it, re-encoded small, or linked."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.decode import Mono
from tiny_audio.audio.io import load_audio
from tiny_audio.errors import AudioError, ConfigError
from tiny_audio.evaluate.records import Record

MODES = ("embed", "link", "none")
MEDIA_TYPE = "audio/ogg"  # Opus in Ogg, mono, about 27 kbit/s at 16 kHz


@dataclass
class Clips:
    """Place of an utterance -> its recording; `left_out` counts those without one, by reason."""

    embedded: dict[int, str] = field(default_factory=dict)  # base64 of MEDIA_TYPE
    links: dict[int, str] = field(default_factory=dict)  # relative to the report
    addresses: dict[int, str] = field(default_factory=dict)  # http(s), which nothing loads
    starts: dict[int, tuple[float, float]] = field(default_factory=dict)  # seconds: from, to
    left_out: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """What the reader of the report should know about its recordings."""
        parts = []
        if self.embedded:
            size = sum(map(len, self.embedded.values())) / 1e6
            parts.append(f"{len(self.embedded)} recordings embedded ({size:.1f} MB, Opus)")
        if self.links:
            parts.append(f"{len(self.links)} linked, to be heard while the files stay in place")
        if self.addresses:
            parts.append(f"{len(self.addresses)} by address")
        parts += [f"{count} left out: {reason}" for reason, count in self.left_out.items()]
        return "; ".join(parts)


def collect(
    records: Iterable[tuple[int, Record]], *, mode: str, megabytes: float, folder: Path, out: Path
) -> Clips:
    """Find the recordings of utterances, given with their places, the most wanted first.

    Args:
        mode: of MODES. Embedding goes on until `megabytes` (10^6 bytes of the page) are full;
            what does not fit is linked.
        folder: where relative paths may start, besides the working directory.
        out: the report, to which links are relative.

    Raises:
        ConfigError: there is no such mode.
    """
    if mode not in MODES:
        raise ConfigError(f"--audio {mode} is unknown: choose {', '.join(MODES)}.")
    clips = Clips()
    room = int(megabytes * 1e6) if mode == "embed" else 0
    held: tuple[Path | None, Mono] = (None, np.zeros(0, np.float32))
    for place, record in records if mode != "none" else ():
        if record.audio is None:
            clips.left_out["no recording is named"] += 1
        elif "://" in record.audio:
            clips.addresses[place] = record.audio
        elif (path := _find(record.audio, folder)) is None:
            clips.left_out["the file is not there"] += 1
        else:
            if room > 0:
                try:
                    held = held if held[0] == path else (path, load_audio(path))
                    text = encode(cut(held[1], record))
                except AudioError as error:
                    clips.left_out[error.reason] += 1
                    continue
                if len(text) <= room:
                    room -= len(text)
                    clips.embedded[place] = text
                    continue
                room = 0
            clips.links[place] = quote(os.path.relpath(path.resolve(), out.parent.resolve()))
            if record.offset is not None:
                clips.starts[place] = (record.offset, record.offset + record.duration)
    return clips


def cut(waveform: Mono, record: Record) -> Mono:
    """The part of a recording [S] in which an utterance lies."""
    if record.offset is None:
        return waveform
    first = round(record.offset * SAMPLE_RATE)
    return waveform[first : first + round(record.duration * SAMPLE_RATE)]


def encode(waveform: Mono) -> str:
    """A waveform [S] at 16 kHz as base64 of Opus in Ogg."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), SAMPLE_RATE, format="OGG", subtype="OPUS")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _find(name: str, folder: Path) -> Path | None:
    paths = (Path(name).expanduser(), folder / name)
    return next((path for path in paths if path.is_file()), None)
