"""`tiny-audio transcribe`: texts to standard output, or files beside each other in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from tiny_audio.audio.io import AudioInput
from tiny_audio.audio.remote import plain_url
from tiny_audio.config import GenerationConfig
from tiny_audio.errors import AudioError, ConfigError, TinyAudioError
from tiny_audio.infer.transcribe import Recogniser, load
from tiny_audio.infer.transcript import FORMATS, Layout, Transcript

# What a folder or a pattern is searched for; a file that is named is read whatever it is called.
SUFFIXES = (
    ".aac", ".aif", ".aiff", ".au", ".avi", ".caf", ".flac", ".m4a", ".m4v", ".mka", ".mkv",
    ".mov", ".mp3", ".mp4", ".mpeg", ".mpga", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma",
)  # fmt: skip


@dataclass(frozen=True)
class Files:
    """Where transcripts are written and how."""

    folder: Path
    formats: Sequence[str]
    layout: Layout
    overwrite: bool = False

    def of(self, name: Path) -> list[Path]:
        """The files of one recording."""
        return [self.folder / name.with_suffix(f".{suffix}") for suffix in self.formats]

    def done(self, source: str, name: Path) -> bool:
        """Whether all of them are there and no older than the recording."""
        files = self.of(name)
        if self.overwrite or not all(file.is_file() for file in files):
            return False
        read = os.path.getmtime(source) if os.path.exists(source) else 0.0
        return all(file.stat().st_mtime >= read for file in files)

    def write(self, transcript: Transcript, name: Path) -> None:
        """Write all formats; each file is there whole or not at all. TinyAudioError if not."""
        for suffix, file in zip(self.formats, self.of(name), strict=True):
            unfinished = file.with_name(f".{file.name}.part")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                unfinished.write_text(FORMATS[suffix](transcript, self.layout), encoding="utf-8")
                unfinished.replace(file)
            except OSError as error:
                with suppress(OSError):
                    unfinished.unlink()
                raise TinyAudioError(f"{file} cannot be written: {error.strerror}.") from None


def output_files(
    output_format: str | None, output_dir: Path | None, overwrite: bool, layout: Layout
) -> Files | None:
    """Where to write by the options of the command line; None: to standard output."""
    if output_format is None and output_dir is None:
        return None
    wanted = output_format or "all"
    if wanted not in (*FORMATS, "all"):
        raise ConfigError(f"--output-format {wanted}: use {', '.join(FORMATS)} or all.")
    formats = list(FORMATS) if wanted == "all" else [wanted]
    return Files(output_dir or Path(), formats, layout, overwrite)


def find_recordings(arguments: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Files, folders, patterns and addresses as (source, path below the output folder).

    Raises:
        ConfigError: a folder or a pattern holds no recording.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            found = [(str(p), p.relative_to(path)) for p in inside]
        elif "://" in argument or path.exists() or not set("*?[") & set(argument):
            address = plain_url(argument) if "://" in argument else argument
            found = [(argument, Path("stdin" if argument == "-" else Path(address).name))]
        else:
            matches = sorted(p for p in Path(path.anchor).glob(argument[len(path.anchor) :]))
            found = [(str(p), Path(p.name)) for p in matches if p.is_file()]
        if not found:
            raise ConfigError(f"{argument}: no recording is there ({' '.join(SUFFIXES)}).")
        yield from found


def read_hotwords(value: str | None, prompt: str | None = None) -> list[str]:
    """Hot words of the command line: those of a file, one a line, or between commas.

    Raises:
        ConfigError: there is none, or the file is not there or no text; there is a prompt.
    """
    if prompt is not None:
        raise ConfigError("--prompt: no model is trained with a context; use --hotwords for names.")
    if value is None:
        return []
    path = Path(value)
    try:
        if path.is_file():
            words = path.read_text(encoding="utf-8").split("\n")
            words = [word.strip() for word in words if word.strip()]
        elif path.suffix == ".txt" or path.is_dir():
            raise ConfigError(f"--hotwords {value}: there is no such file.")
        else:
            words = [word.strip() for word in value.split(",")]
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"--hotwords {value}: cannot be read as text in UTF-8.") from None
    if not words or "" in words:
        raise ConfigError("--hotwords: one of them is empty; divide words by one comma.")
    return words


def transcribe_command(
    files: list[str],
    *,
    model: str,
    device: str,
    as_json: bool,
    stream: bool,
    quantise: str | None = None,
    dtype: str | None = "auto",
    beams: int = GenerationConfig.num_beams,
    max_bytes: int | None = None,
    output: Files | None = None,
    word_timestamps: bool = False,
    **options: Any,
) -> int:
    """`tiny-audio transcribe`: texts to stdout or to files, failures to stderr; returns the status.

    On standard output a line a file, preceded by the file's name where there are several; with
    `as_json` a JSON object a line; with `stream` the text as it is written. `-` is standard input.
    1 if a file could not be read, otherwise 0. OSError where the texts cannot be written.
    """
    if stream and (as_json or beams > 1 or output or word_timestamps or options.get("vad")):
        raise ConfigError(
            "--stream writes plain greedy text of all there is: leave out --json, --beams, "
            "--output-*, --word-timestamps and --vad."
        )
    if as_json and output:
        raise ConfigError("--json writes to standard output: use --output-format json for files.")
    if word_timestamps and not (as_json or output):
        raise ConfigError("--word-timestamps shows in --json or with --output-format.")
    if "-" in files and sys.stdin is None:
        raise ConfigError("standard input is closed: name a file instead of -, or feed one in.")
    if sys.stdout is None:
        raise TinyAudioError("standard output is closed: there is nowhere to write the text.")
    found = list(find_recordings(files))
    if output is not None:
        found = _still_to_do(found, output)
        if not found:
            return 0
        word_timestamps |= output.formats != ["txt"]
    recogniser = load(model, device=device, dtype=dtype, quantise=quantise)
    sources = [sys.stdin.buffer if name == "-" else name for name, _ in found]
    names = [f"{name}: " if len(found) > 1 else "" for name, _ in found]
    failures = 0
    if stream:
        for option in ("batch_seconds", "max_utterances", "vad"):
            options.pop(option, None)
        for name, source in zip(names, sources, strict=True):
            failures += not _print_stream(recogniser, name, source, max_bytes, options)
        return min(failures, 1)
    transcripts = recogniser.transcripts(
        sources, beams=beams, max_bytes=max_bytes, word_timestamps=word_timestamps, **options
    )
    if output is not None and len(found) > 1:
        console = Console(stderr=True)
        quiet = not console.is_terminal
        shown = track(transcripts, "Transcribing", len(found), console=console, disable=quiet)
        return _write(names, found, shown, output, as_json)
    return _write(names, found, transcripts, output, as_json)


def _write(
    names: Iterable[str],
    found: Iterable[tuple[str, Path]],
    transcripts: Iterable[Transcript],
    output: Files | None,
    as_json: bool,
) -> int:
    """Write every transcript as soon as it is there; 1 if one of them failed."""
    failures = 0
    for name, (_, path), transcript in zip(names, found, transcripts, strict=True):
        if transcript.error is not None:
            failures += 1
            print(transcript.error, file=sys.stderr)
        if output is not None:
            if transcript.error is None:
                output.write(transcript, path)
        elif as_json:
            print(transcript.to_json(), flush=True)
        elif transcript.error is None:
            print(name + transcript.text, flush=True)
    return min(failures, 1)


def _still_to_do(found: list[tuple[str, Path]], output: Files) -> list[tuple[str, Path]]:
    """The recordings whose files are not yet there; says how many are."""
    sources: dict[Path, str] = {}
    for source, name in found:
        first = sources.setdefault(name.with_suffix(""), source)
        if first != source:
            raise ConfigError(
                f"{first} and {source} would be written to the same file in {output.folder}: "
                "transcribe them into two folders."
            )
    missing = [(source, name) for source, name in found if not output.done(source, name)]
    if done := len(found) - len(missing):
        print(f"{done} of {len(found)} are done already (--overwrite: again)", file=sys.stderr)
    return missing


def _print_stream(
    recogniser: Recogniser,
    name: str,
    source: AudioInput,
    max_bytes: int | None,
    decoding: dict[str, Any],
) -> bool:
    """Print one recording's text as it is written; True if it could be read to its end."""
    begun = False
    try:
        for piece in recogniser.stream(source, max_bytes=max_bytes, **decoding):
            print(piece if begun else name + piece, end="", flush=True)
            begun = True
    except AudioError as error:
        if begun:
            print(flush=True)
        print(error, file=sys.stderr)
        return False
    print("" if begun else name, flush=True)
    return True
