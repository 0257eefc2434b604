"""Live audio over a WebSocket, with OpenAI's realtime transcription events.

With server VAD a line is an item: its words come as deltas while it is being spoken. Without, an
item is what the client commits, and its text comes as it is decoded. S samples.
"""

# Without `from __future__ import annotations`: see app.py.

import asyncio
import base64
import binascii
import copy
import json
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.segment import split_long
from tiny_audio.infer.live import LiveTranscriber, LiveUpdate
from tiny_audio.infer.recognise import MIN_SPAN_SECONDS, join_texts
from tiny_audio.infer.vad import VadOptions
from tiny_audio.serve.batcher import Part, Wish
from tiny_audio.serve.gate import LOADED, Service, error_detail

if TYPE_CHECKING:
    from fastapi import FastAPI, WebSocket

RATE = 24_000  # Hz, the only one of OpenAI's
LEAST_SECONDS, MOST_SECONDS = 0.1, 600.0  # of what a client commits
IDLE_SECONDS = 600.0  # without an event, until the connection is closed
AT_ONCE = 4  # committed items of one connection that wait
VAD = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
}


class Mistake(Exception):
    """What a client sent is wrong; it is told and the connection stays open."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


def add_realtime(app: "FastAPI", service: Service) -> None:
    """The endpoint for live audio."""
    from fastapi import WebSocket, WebSocketDisconnect

    @app.websocket(LOADED[1])
    async def realtime(socket: WebSocket) -> None:
        service.accept(socket.scope)
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
        session = Session(service, socket)
        try:
            await session.run()
        except WebSocketDisconnect:
            pass
        finally:
            session.end()


class Session:
    """One connection."""

    def __init__(self, service: Service, socket: "WebSocket") -> None:
        self._service, self._socket = service, socket
        self._sending = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live")
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._item: str | None = None  # the line that is being spoken
        self._last_item: str | None = None
        self._seconds = 0.0  # heard before the last change of settings
        self._settings: dict[str, Any] = {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": _id("sess"),
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": RATE},
                    "noise_reduction": None,
                    "transcription": {"model": service.names[0]},
                    "turn_detection": dict(VAD),
                }
            },
        }
        self._begin()

    def _begin(self) -> None:
        """Hear anew, by the settings."""
        self._resample = soxr.ResampleStream(RATE, SAMPLE_RATE, 1, dtype="float32")
        self._buffer: list[np.ndarray] = []  # [S], without server VAD
        self._live: LiveTranscriber | None = None
        if vad := self._settings["audio"]["input"]["turn_detection"]:
            options = VadOptions(
                threshold=vad["threshold"],
                min_silence_duration_ms=vad["silence_duration_ms"],
                speech_pad_ms=vad["prefix_padding_ms"],
            )
            batcher = self._service.batcher
            self._live = LiveTranscriber(batcher.model, decode=batcher.recognise, vad=options)

    async def run(self) -> None:
        """Answer events until the client leaves, falls silent, or the server stops."""
        await self._send("session.created", session=self._settings)
        stopping = asyncio.create_task(self._service.stopping.wait())
        try:
            while True:
                receiving = asyncio.create_task(self._socket.receive_text())
                await asyncio.wait(
                    {receiving, stopping},
                    timeout=IDLE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not receiving.done():
                    receiving.cancel()
                    break
                await self._answer(receiving.result())
            if self._live is not None:
                await self._on_thread(LiveTranscriber.finish)
            await asyncio.gather(*self._tasks)
            await self._socket.close(1001)
        finally:
            stopping.cancel()

    def end(self) -> None:
        """Nobody waits any more."""
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, text: str) -> None:
        """Do what one event asks."""
        event: Any = None
        actions: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }
        try:
            try:
                event = json.loads(text)
                action = actions[event["type"]]
            except (ValueError, TypeError, KeyError):
                known = ", ".join(actions)
                raise Mistake(f"An event is JSON with one of the types {known}.", "type") from None
            await action(event)
        except Mistake as error:
            found = error_detail(str(error), param=error.param, code=error.code)
            own = event.get("event_id") if isinstance(event, dict) else None
            await self._send("error", error={**found, "event_id": own})

    async def _update(self, event: dict[str, Any]) -> None:
        changed = copy.deepcopy(self._settings)
        try:
            asked = event["session"]
            if asked["type"] != "transcription":
                raise Mistake("Only transcription sessions are served.", "session.type")
            heard = (asked.get("audio") or {}).get("input") or {}
            if (format_ := heard.get("format")) is not None and (
                format_.get("type", "audio/pcm") != "audio/pcm" or format_.get("rate", RATE) != RATE
            ):
                raise Mistake(f"Send audio/pcm of {RATE} Hz.", "session.audio.input.format")
            if (wanted := heard.get("transcription")) is not None:
                name = wanted.get("model") or self._service.names[0]
                if name not in self._service.names:
                    param = "session.audio.input.transcription.model"
                    raise Mistake(f"The model `{name}` does not exist.", param, "model_not_found")
                changed["audio"]["input"]["transcription"] = {**wanted, "model": name}
            if "turn_detection" in heard:
                changed["audio"]["input"]["turn_detection"] = _turns(heard["turn_detection"])
        except (KeyError, AttributeError, TypeError):
            raise Mistake("The session is not what it should be.", "session") from None
        turns = self._settings["audio"]["input"]["turn_detection"]
        self._settings = changed
        if changed["audio"]["input"]["turn_detection"] != turns:
            self._seconds += self._live.seconds if self._live else 0.0
            self._begin()
        await self._send("session.updated", session=changed)

    async def _append(self, event: dict[str, Any]) -> None:
        try:
            data = base64.b64decode(event["audio"], validate=True)
            heard = np.frombuffer(data, "<i2").astype(np.float32) / 32_768
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise Mistake("audio is base64 of 16-bit samples.", "audio") from None
        self._socket.scope["state"]["audio_seconds"] += len(heard) / RATE
        samples = self._resample.resample_chunk(heard)
        if self._live is not None:
            await self._on_thread(lambda live: live.feed(samples))
            return
        if self._held + len(samples) > MOST_SECONDS * SAMPLE_RATE:
            message = f"The buffer holds {MOST_SECONDS:g} s at most: commit or clear it."
            raise Mistake(message, "audio", "input_audio_buffer_full")
        self._buffer.append(samples)

    @property
    def _held(self) -> int:
        return sum(map(len, self._buffer))

    async def _commit(self, event: dict[str, Any]) -> None:
        if self._live is not None:
            await self._on_thread(LiveTranscriber.commit)
            return
        rest = self._resample.resample_chunk(np.zeros(0, np.float32), last=True)
        waveform = np.concatenate([*self._buffer, rest])
        self._begin()
        if len(waveform) < LEAST_SECONDS * SAMPLE_RATE:
            message = f"The buffer holds less than {1000 * LEAST_SECONDS:g} ms."
            raise Mistake(message, None, "input_audio_buffer_commit_empty")
        await self._room.acquire()
        item = _id("item")
        await self._committed(item)
        task = asyncio.create_task(self._transcribe(item, waveform))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _clear(self, event: dict[str, Any]) -> None:
        self._buffer.clear()
        self._item = None
        if self._live is not None:
            self._live.clear()
        await self._send("input_audio_buffer.cleared")

    async def _on_thread(self, work: Callable[[LiveTranscriber], list[LiveUpdate]]) -> None:
        """Let the live transcriber work, and tell what it found."""
        live = self._live
        assert live is not None
        updates = await asyncio.get_running_loop().run_in_executor(self._thread, work, live)
        for update in updates:
            await self._spoken(update.start)
            if update.settled:
                await self._send(_TEXT + "delta", **_of(self._item), delta=update.settled)
            if update.final:
                item, self._item = self._item, None
                end = self._milliseconds(update.end)
                await self._send(
                    "input_audio_buffer.speech_stopped", audio_end_ms=end, item_id=item
                )
                await self._committed(item)
                begun = update.words[0].start if update.words else update.start
                await self._completed(item, update.text, max(0.0, update.end - begun))
        if live.line_start is not None:
            await self._spoken(live.line_start)

    async def _spoken(self, start: float) -> None:
        """A line has begun, unless that is known."""
        if self._item is None:
            self._item = _id("item")
            begun = self._milliseconds(start)
            await self._send(
                "input_audio_buffer.speech_started", audio_start_ms=begun, item_id=self._item
            )

    def _milliseconds(self, seconds: float) -> int:
        return round(1000 * (self._seconds + seconds))

    async def _transcribe(self, item: str, waveform: np.ndarray) -> None:
        """An item that the client has committed."""
        model = self._service.batcher.model
        cuts = split_long(waveform, model.window_seconds, MIN_SPAN_SECONDS)
        spans = (waveform[start:end] for start, end in cuts)
        parts: list[str] = []
        begun = False
        try:
            async for found in self._service.batcher.transcribe(spans, Wish(), pieces=True):
                if isinstance(found, Part):
                    parts.append(found.segment.text)
                    begun = False
                    continue
                blank = " " if not begun and any(parts) else ""
                begun = True
                await self._send(_TEXT + "delta", **_of(item), delta=blank + found)
        except Exception:  # the worker has logged it
            failed = error_detail("The item could not be transcribed.", type="server_error")
            await self._send(_TEXT + "failed", **_of(item), error=failed)
        else:
            await self._completed(item, join_texts(parts), len(waveform) / SAMPLE_RATE)
        finally:
            self._room.release()

    async def _committed(self, item: str | None) -> None:
        before, self._last_item = self._last_item, item
        await self._send("input_audio_buffer.committed", item_id=item, previous_item_id=before)
        described = {
            "id": item,
            "type": "message",
            "object": "realtime.item",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for event in ("added", "done"):
            await self._send(f"conversation.item.{event}", item=described, previous_item_id=before)

    async def _completed(self, item: str | None, text: str, seconds: float) -> None:
        usage = {"type": "duration", "seconds": round(seconds, 2)}
        await self._send(_TEXT + "completed", **_of(item), transcript=text, usage=usage)

    async def _send(self, type: str, **fields: Any) -> None:
        async with self._sending:
            await self._socket.send_json({"type": type, "event_id": _id("event"), **fields})


_TEXT = "conversation.item.input_audio_transcription."


def _of(item: str | None) -> dict[str, Any]:
    return {"item_id": item, "content_index": 0}


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:21]}"


def _turns(asked: dict[str, Any] | None) -> dict[str, Any] | None:
    """Turn detection as it is asked for, with defaults."""
    if asked is None:
        return None
    param = "session.audio.input.turn_detection"
    turns = {key: asked.get(key) if asked.get(key) is not None else VAD[key] for key in VAD}
    if turns["type"] != "server_vad":
        raise Mistake("Turns are detected by server_vad, or not at all: null.", f"{param}.type")
    numbers = [turns[key] for key in VAD if key != "type"]
    if not all(isinstance(number, int | float) and 0 <= number <= 10_000 for number in numbers):
        raise Mistake("Thresholds and times are numbers of 0 or more.", param)
    return turns
