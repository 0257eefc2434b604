"""Recordings to transcripts: `load` and `transcribe`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np

from tiny_audio.audio.io import SAMPLE_RATE, AudioInput, audio_blocks
from tiny_audio.config import EvaluationConfig, GenerationConfig
from tiny_audio.infer.live import LiveTranscriber, LiveUpdate
from tiny_audio.infer.prefetch import prefetch
from tiny_audio.infer.recognise import (
    MIN_SPAN_SECONDS,
    Piece,
    Recognition,
    cut_clips,
    join_pieces,
    prompt_batch,
    read_pieces,
    recognise,
    split_stream,
)
from tiny_audio.infer.transcript import Transcript
from tiny_audio.infer.vad import VadOptions
from tiny_audio.model.checkpoint import resolve_model
from tiny_audio.model.quantise import quantise as quantise_weights
from tiny_audio.model.speech import SpeechModel

Chunks = Iterator[np.ndarray] | list[np.ndarray] | tuple[np.ndarray, ...]
Many = list[Any] | tuple[Any, ...]  # of AudioInput; a list of paths is not a list of AudioInput


class Recogniser:
    """A model that is ready to transcribe; `tiny_audio.load` makes one."""

    def __init__(self, model: SpeechModel) -> None:
        self.model = model.eval()

    @overload
    def transcribe(self, files: AudioInput, **options: Any) -> Transcript: ...
    @overload
    def transcribe(self, files: Many, **options: Any) -> list[Transcript]: ...
    def transcribe(self, files: AudioInput | Many, **options: Any) -> Transcript | list[Transcript]:
        """Transcribe one recording, or a list of them into a list in the same order.

        A recording is whatever `load_audio` reads: a path, URL, bytes, file object, array or
        tensor. One that cannot be read gives a Transcript with `error`. options: of `transcripts`.
        """
        if isinstance(files, list | tuple):
            return list(self.transcripts(files, **options))
        return next(self.transcripts([files], **options))

    def transcripts(
        self,
        files: Iterable[AudioInput],
        *,
        sample_rate: int | None = None,
        batch_seconds: float = EvaluationConfig.batch_seconds,
        max_utterances: int = EvaluationConfig.max_utterances,
        beams: int = GenerationConfig.num_beams,
        max_bytes: int | None = None,
        word_timestamps: bool = False,
        vad: bool | VadOptions = False,
    ) -> Iterator[Transcript]:
        """Transcripts in order, each as soon as it and those before it are done.

        The next recordings are read while the model works on these, about one batch ahead; of a
        long one no more than that is in memory.

        Args:
            sample_rate: of arrays and tensors, where it is not 16 kHz.
            batch_seconds: padded audio that goes through the model at once.
            max_utterances: clips that do; 0: what memory allows.
            beams: of the search; 1 is greedy.
            max_bytes: of an address or a pipe, see `load_audio`.
            word_timestamps: segments have words, with their times and how sure they are.
            vad: only what voice activity detection takes for speech is transcribed.
        """
        speech = VadOptions() if vad is True else vad or None
        window = self.model.window_seconds
        loaded = prefetch(
            (
                ((_path(file), piece), span)
                for file in files
                for piece, span in read_pieces(file, sample_rate, window, max_bytes, speech)
            ),
            cost=lambda item: len(item[1]) / SAMPLE_RATE,
            budget=batch_seconds,
        )
        recognised = recognise(
            self.model,
            loaded,
            options=GenerationConfig(num_beams=beams),
            batch_seconds=batch_seconds,
            max_utterances=max_utterances,
            word_timestamps=word_timestamps,
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

    @overload
    def stream(
        self, source: AudioInput, *, sample_rate: int | None = ..., max_bytes: int | None = ...
    ) -> Iterator[str]: ...
    @overload
    def stream(self, source: Chunks, **options: Any) -> Iterator[LiveUpdate]: ...
    def stream(
        self, source: AudioInput | Chunks, **options: Any
    ) -> Iterator[str] | Iterator[LiveUpdate]:
        """Text as it comes, of one recording or of live audio.

        A recording gives pieces of its text as they are written, also while a long file or an open
        pipe is being read; together they are its text. AudioError where it cannot be read further,
        after the text of what comes before. options: sample_rate and max_bytes of `transcripts`.

        An iterator or list of chunks [S], float32 at 16 kHz, is live audio and gives updates of
        the line that is being spoken. options: of `LiveTranscriber`.
        """
        if isinstance(source, Iterator | list | tuple) and not hasattr(source, "read"):
            return _live(LiveTranscriber(self.model, **options), source)
        return self._stream(source, **options)

    def _stream(
        self, file: Any, *, sample_rate: int | None = None, max_bytes: int | None = None
    ) -> Iterator[str]:
        blocks = audio_blocks(file, sample_rate=sample_rate, max_bytes=max_bytes, live=True)
        spans = prefetch(
            split_stream(blocks, self.model.window_seconds, MIN_SPAN_SECONDS),
            cost=lambda span: len(span) / SAMPLE_RATE,
            budget=EvaluationConfig.batch_seconds,
        )
        return join_streams(
            self.model.stream(prompt_batch(self.model, [clip]), GenerationConfig())
            for span in spans
            for _, clip in cut_clips(self.model, span)
        )


def _live(live: LiveTranscriber, chunks: Iterable[np.ndarray]) -> Iterator[LiveUpdate]:
    for chunk in chunks:
        yield from live.feed(chunk)
    yield from live.finish()


def join_streams(texts: Iterable[Iterable[str]]) -> Iterator[str]:
    """Texts that come in pieces, put together the way `join_texts` puts whole texts together.

    White space is held back until it is known to lie inside a text.
    """
    written = False
    for pieces in texts:
        held, inside = "", False
        for piece in pieces:
            held += piece
            ready = held.rstrip() if inside else held.strip()
            if not ready:
                continue
            if not inside and written:
                yield " "
            yield ready
            held = held[len(held.rstrip()) :]
            inside = written = True


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
def transcribe(files: AudioInput, model: str = ..., **options: Any) -> Transcript: ...
@overload
def transcribe(files: Many, model: str = ..., **options: Any) -> list[Transcript]: ...
def transcribe(
    files: AudioInput | Many, model: str = "nano", **options: Any
) -> Transcript | list[Transcript]:
    """Transcribe one recording or a list with the named model; see `Recogniser.transcribe`."""
    return load(model).transcribe(files, **options)


def _path(source: AudioInput) -> str | None:
    path = os.fspath(source) if isinstance(source, str | Path) else getattr(source, "name", None)
    return path if isinstance(path, str) else None
