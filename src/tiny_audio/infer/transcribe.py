"""Recordings to transcripts: in Python `load` and `transcribe`, in the shell `transcribe`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from tiny_audio.audio.io import SAMPLE_RATE, AudioInput, audio_blocks
from tiny_audio.config import EvaluationConfig, GenerationConfig
from tiny_audio.errors import AudioError, ConfigError, TinyAudioError
from tiny_audio.infer.prefetch import prefetch
from tiny_audio.infer.recognise import (
    MIN_SPAN_SECONDS,
    Piece,
    Recognition,
    Segment,
    join_pieces,
    read_pieces,
    recognise,
    split_stream,
)
from tiny_audio.infer.stream import stream
from tiny_audio.model.checkpoint import resolve_model
from tiny_audio.model.quantise import quantise as quantise_weights
from tiny_audio.model.speech import SpeechModel

Many = list[Any] | tuple[Any, ...]  # of AudioInput; a list of paths is not a list of AudioInput


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording, or why it could not be read."""

    text: str
    seconds: float  # length of the recording
    path: str | None = None  # as it was given, None for arrays and bytes
    logprob: float | None = None  # mean over tokens, None where it is not known
    segments: list[Segment] = field(default_factory=list)
    error: str | None = None  # one line, None when all went well

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Options(TypedDict, total=False):
    """What `transcribe` can be told."""

    sample_rate: int | None  # of arrays and tensors, where it is not 16 kHz
    batch_seconds: float  # padded audio that goes through the model at once
    max_utterances: int  # clips that do; 0: what memory allows
    beams: int  # 1 is greedy
    max_bytes: int | None  # of an address or a pipe, see `load_audio`
    on_audio: Callable[[float], None] | None  # is told the seconds of every batch that is done


class Recogniser:
    """A model that is ready to transcribe; `tiny_audio.load` makes one."""

    def __init__(self, model: SpeechModel) -> None:
        self.model = model.eval()

    @overload
    def transcribe(self, files: AudioInput, **options: Unpack[Options]) -> Transcript: ...
    @overload
    def transcribe(self, files: Many, **options: Unpack[Options]) -> list[Transcript]: ...
    def transcribe(
        self, files: AudioInput | Many, **options: Unpack[Options]
    ) -> Transcript | list[Transcript]:
        """Transcribe one recording, or a list of them into a list in the same order.

        A recording is whatever `load_audio` reads: a path, URL, bytes, file object, array or
        tensor. One that cannot be read gives a Transcript with `error`.
        """
        if isinstance(files, list | tuple):
            return list(self.transcripts(files, **options))
        return next(self.transcripts([files], **options))

    def transcripts(
        self, files: Iterable[AudioInput], **options: Unpack[Options]
    ) -> Iterator[Transcript]:
        """Transcripts in order, each as soon as it and those before it are done.

        The next recordings are read while the model works on these, about one batch ahead; of a
        long one no more than that is in memory.
        """
        rate = options.get("sample_rate")
        batch_seconds = options.get("batch_seconds", EvaluationConfig.batch_seconds)
        window = self.model.window_seconds
        loaded = prefetch(
            (
                ((_path(file), piece), span)
                for file in files
                for piece, span in read_pieces(
                    file, rate, window, MIN_SPAN_SECONDS, options.get("max_bytes")
                )
            ),
            cost=lambda item: len(item[1]) / SAMPLE_RATE,
            budget=batch_seconds,
        )
        recognised = recognise(
            self.model,
            loaded,
            options=GenerationConfig(num_beams=options.get("beams", GenerationConfig.num_beams)),
            batch_seconds=batch_seconds,
            max_utterances=options.get("max_utterances", EvaluationConfig.max_utterances),
            on_audio=options.get("on_audio"),
        )
        found: list[tuple[Piece, Recognition]] = []
        for (path, piece), part in recognised:
            found.append((piece, part))
            if piece.last:
                whole = Recognition([], 0.0, 0.0) if piece.error else join_pieces(found)
                yield Transcript(
                    whole.text, whole.seconds, path, whole.logprob, whole.segments, piece.error
                )
                found.clear()

    def stream(
        self, file: AudioInput, *, sample_rate: int | None = None, max_bytes: int | None = None
    ) -> Iterator[str]:
        """Pieces of one recording's text as they are written; together they are its text.

        They come while a long file, or a pipe that is still open, is being read. Raises AudioError
        where the recording cannot be read further, after the text of what comes before.
        """
        blocks = audio_blocks(file, sample_rate=sample_rate, max_bytes=max_bytes, live=True)
        spans = prefetch(
            split_stream(blocks, self.model.window_seconds, MIN_SPAN_SECONDS, windows=1),
            cost=lambda span: len(span) / SAMPLE_RATE,
            budget=EvaluationConfig.batch_seconds,
        )
        return stream(self.model, spans, GenerationConfig())


def load(
    name_or_dir: str = "nano",
    *,
    device: str = "auto",
    dtype: str | None = "auto",
    quantise: str | None = None,
) -> Recogniser:
    """A recogniser from the bundled pair (`nano`), a checkpoint, a run's folder or a hub id.

    dtype: of the frozen weights, None: as in training. quantise: `int8` for smaller weights, see
    docs/speed.md.
    """
    model = resolve_model(name_or_dir, device=device, dtype=dtype)
    return Recogniser(quantise_weights(model, quantise))


@overload
def transcribe(files: AudioInput, model: str = ..., **options: Unpack[Options]) -> Transcript: ...
@overload
def transcribe(files: Many, model: str = ..., **options: Unpack[Options]) -> list[Transcript]: ...
def transcribe(
    files: AudioInput | Many, model: str = "nano", **options: Unpack[Options]
) -> Transcript | list[Transcript]:
    """Transcribe one recording or a list with the named model; see `Recogniser.transcribe`."""
    return load(model).transcribe(files, **options)


def transcribe_command(
    files: list[str],
    *,
    model: str,
    device: str,
    as_json: bool,
    stream: bool,
    batch_seconds: float,
    max_utterances: int,
    beams: int,
    quantise: str | None = None,
    dtype: str | None = "auto",
    max_bytes: int | None = None,
) -> int:
    """`tiny-audio transcribe`: texts to stdout, failures to stderr; returns the exit status.

    A line a file, preceded by the file's name where there are several; with `as_json` a JSON
    object a line; with `stream` the text as it is written. `-` is standard input. 1 if a file
    could not be read, otherwise 0. TinyAudioError where the texts cannot be written.
    """
    if stream and (as_json or beams > 1):
        raise ConfigError("--stream writes plain greedy text: leave out --json and --beams.")
    if "-" in files and sys.stdin is None:
        raise ConfigError("standard input is closed: name a file instead of -, or feed one in.")
    recogniser = load(model, device=device, dtype=dtype, quantise=quantise)
    sources = [sys.stdin.buffer if name == "-" else name for name in files]
    names = [f"{name}: " if len(files) > 1 else "" for name in files]
    if stream:
        printed = [
            _print_stream(recogniser, name, source, max_bytes)
            for name, source in zip(names, sources, strict=True)
        ]
        return 0 if all(printed) else 1
    failures = 0
    transcripts = recogniser.transcripts(
        sources,
        batch_seconds=batch_seconds,
        max_utterances=max_utterances,
        beams=beams,
        max_bytes=max_bytes,
    )
    for name, transcript in zip(names, transcripts, strict=True):
        if transcript.error is not None:
            failures += 1
            print(transcript.error, file=sys.stderr)
        if as_json:
            write_out(transcript.to_json() + "\n")
        elif transcript.error is None:
            write_out(name + transcript.text + "\n")
    return 1 if failures else 0


def _print_stream(
    recogniser: Recogniser, name: str, source: AudioInput, max_bytes: int | None
) -> bool:
    """Print one recording's text as it is written; True if it could be read to its end."""
    begun = False
    try:
        for piece in recogniser.stream(source, max_bytes=max_bytes):
            write_out(piece if begun else name + piece)
            begun = True
    except AudioError as error:
        if begun:
            write_out("\n")
        print(error, file=sys.stderr)
        return False
    write_out("\n" if begun else name + "\n")
    return True


def write_out(text: str) -> None:
    """Write to standard output at once.

    Raises:
        TinyAudioError: it is closed, or its disk is full. BrokenPipeError: its reader has left.
    """
    if sys.stdout is None:
        raise TinyAudioError("standard output is closed: there is nowhere to write the text.")
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what it holds is lost
        raise TinyAudioError(f"standard output cannot be written: {error.strerror}.") from None


def _path(source: AudioInput) -> str | None:
    path = os.fspath(source) if isinstance(source, str | Path) else getattr(source, "name", None)
    return path if isinstance(path, str) else None
