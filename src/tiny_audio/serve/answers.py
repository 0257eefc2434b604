"""A request for a transcription, and its answer in each of OpenAI's forms."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.io import audio_blocks
from tiny_audio.errors import AudioError
from tiny_audio.infer.recognise import MIN_SPAN_SECONDS, join_texts, split_stream
from tiny_audio.infer.transcript import Transcript
from tiny_audio.model.guards import compression_ratio
from tiny_audio.serve.batcher import Part, Wish
from tiny_audio.serve.gate import Service, api_error

if TYPE_CHECKING:
    from fastapi.responses import Response


@dataclass
class Query:
    """What a request for a transcription asks."""

    form: str  # of the answer
    granularities: list[Literal["word", "segment"]]
    logprobs: bool
    stream: bool
    language: str | None
    temperature: float

    def check(self) -> None:
        """Raise 400 for what does not go together."""
        wrong: tuple[str, str] | None = None
        if self.granularities and self.form != "verbose_json":
            wrong = "timestamp_granularities[]", "response_format must be verbose_json for it"
        elif self.logprobs and self.form != "json":
            wrong = "include[]", "response_format must be json for log-probabilities"
        elif self.stream and self.form not in ("json", "text"):
            wrong = "response_format", "a stream is json"
        if wrong:
            raise api_error(400, ": ".join(wrong) + ".", param=wrong[0], code="invalid_value")

    @property
    def wish(self) -> Wish:
        """What it means for decoding."""
        return Wish(self.form in ("srt", "vtt") or "word" in self.granularities, self.temperature)


@dataclass
class Recording:
    """An uploaded file that is read once, as a file of its own: its request may be over before."""

    file: BinaryIO
    max_seconds: float
    state: dict[str, Any]  # of the request; the log reads it
    samples: int = 0

    def spans(self, window_seconds: float) -> Iterator[np.ndarray]:
        """Its spans [S]. Raises HTTPException: it cannot be read."""
        try:
            with self.file:
                blocks = audio_blocks(self.file, max_seconds=self.max_seconds)
                for span in split_stream(blocks, window_seconds, MIN_SPAN_SECONDS):
                    self.samples += len(span)
                    self.state["audio_seconds"] = self.samples / SAMPLE_RATE
                    yield span
        except AudioError as error:
            message = re.sub(r"^the file object \S+", "The audio file", str(error))
            raise api_error(400, message + ".", param="file", code="invalid_value") from None


async def streamed(
    service: Service,
    recording: Recording,
    query: Query,
    first: str | Part | None,
    items: AsyncIterator[str | Part],
) -> AsyncIterator[str]:
    """Server-sent events: the text piece by piece, and the whole of it."""
    from fastapi import HTTPException

    parts: list[Part] = []
    written = begun = False  # of the recording's text, of this part's

    def event(**fields: Any) -> str:
        return f"data: {json.dumps(fields, ensure_ascii=False)}\n\n"

    async def everything() -> AsyncIterator[str | Part]:
        if first is not None:
            yield first
        async for item in items:
            yield item

    try:
        async for item in everything():
            if isinstance(item, Part):
                parts.append(item)
                begun = False
            else:
                blank = " " if written and not begun else ""
                written = begun = True
                yield event(type="transcript.text.delta", delta=blank + item)
        yield event(type="transcript.text.done", **plain(service, recording, query, parts))
        yield "data: [DONE]\n\n"
    except HTTPException as error:  # the file breaks off further on
        yield event(error=error.detail)


def formed(service: Service, recording: Recording, query: Query, parts: list[Part]) -> Response:
    """The answer in one of OpenAI's formats."""
    from fastapi.responses import JSONResponse, PlainTextResponse

    segments = [part.segment for part in parts]
    text = join_texts(segment.text for segment in segments)
    whole = Transcript(text, recording.samples / SAMPLE_RATE, segments=segments)
    texts: dict[str, Callable[[], str]] = {
        "text": lambda: text + "\n",
        "srt": whole.to_srt,
        "vtt": whole.to_vtt,
    }
    if query.form in texts:
        return PlainTextResponse(texts[query.form]())
    if query.form == "json":
        return JSONResponse(plain(service, recording, query, parts))
    return JSONResponse(verbose(whole, query, parts))


def usage(seconds: float) -> dict[str, Any]:
    """What a recording counts for."""
    return {"type": "duration", "seconds": round(seconds, 2)}


def plain(
    service: Service, recording: Recording, query: Query, parts: list[Part]
) -> dict[str, Any]:
    """A transcription as ``json``."""
    text = join_texts(part.segment.text for part in parts)
    whole: dict[str, Any] = {"text": text, "usage": usage(recording.samples / SAMPLE_RATE)}
    if query.logprobs:
        tokenizer = service.batcher.model.tokenizer
        whole["logprobs"] = [
            {"token": token, "logprob": logprob, "bytes": list(token.encode())}
            for part in parts
            for id, logprob in zip(part.token_ids, part.logprobs, strict=False)  # not the end's
            for token in [str(tokenizer.decode([id]))]
        ]
    return whole


def verbose(whole: Transcript, query: Query, parts: list[Part]) -> dict[str, Any]:
    """A transcription as ``verbose_json``."""
    found: dict[str, Any] = {
        "task": "transcribe",
        "language": query.language or "unknown",
        "duration": round(whole.seconds, 2),
        "text": whole.text,
        "usage": usage(whole.seconds),
    }
    if "word" in query.granularities:
        words = [word for part in parts for word in part.segment.words]
        found["words"] = [{"word": w.text, "start": w.start, "end": w.end} for w in words]
    if "segment" in query.granularities or not query.granularities:
        found["segments"] = [segment(n, part) for n, part in enumerate(parts)]
    return found


def segment(number: int, part: Part) -> dict[str, Any]:
    """A segment in Whisper's words."""
    own = part.segment
    return {
        "id": number,
        "seek": round(100 * own.start),  # frames
        "start": own.start,
        "end": own.end,
        "text": own.text,
        "tokens": list(part.token_ids),
        "temperature": own.temperature,
        "avg_logprob": own.logprob,
        "compression_ratio": compression_ratio(own.text),
        "no_speech_prob": own.no_speech_prob,
    }
