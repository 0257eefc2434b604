"""What every request passes: who may come in, how much of it, how long; counted and logged.

No content and no file name is logged, and no key.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tiny_audio.config import ServeConfig
from tiny_audio.errors import ConfigError
from tiny_audio.serve.batcher import Batcher

if TYPE_CHECKING:
    from fastapi import HTTPException
    from fastapi.responses import JSONResponse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

KEYS = "TINY_AUDIO_API_KEYS"
GONE = 499  # in metrics and logs: the client had hung up
LOADED = ("/v1/audio/transcriptions", "/v1/realtime")  # what makes the model work

logger = logging.getLogger(__name__)


def error_detail(
    message: str,
    *,
    type: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """An error in OpenAI's words."""
    return {"message": message, "type": type, "param": param, "code": code}


def api_error(
    status: int, message: str, *, headers: dict[str, str] | None = None, **detail: Any
) -> HTTPException:
    """An error of a request, of ``error_detail``; whoever raises it answers with it."""
    from fastapi import HTTPException

    return HTTPException(status, error_detail(message, **detail), headers)


def error_response(error: HTTPException) -> JSONResponse:
    """The answer that an error is."""
    from fastapi.responses import JSONResponse

    detail: Any = error.detail
    if not isinstance(detail, dict):  # FastAPI's own: no such path, no such method, no form
        detail = error_detail(detail)
    return JSONResponse({"error": detail}, error.status_code, error.headers)


def read_keys(file: Path | None) -> list[bytes]:
    """API keys, one a line of a file, and those in the environment, divided by commas."""
    keys = os.environ.get(KEYS, "").split(",")
    if file is not None:
        try:
            keys += file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--api-key-file {file} cannot be read: {error}.") from None
    found = [key.strip().encode() for key in keys if key.strip()]
    if file is not None and not found:
        raise ConfigError(f"--api-key-file {file} holds no key: write one a line.")
    return found


class Metrics:
    """What Prometheus reads at ``/metrics``."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "tiny_audio_requests", "Requests by path and status.", ["path", "status"], registry=own
        )
        self.latency = Histogram(
            "tiny_audio_request_seconds",
            "From a request's first byte to the end of its answer.",
            ["path"],
            registry=own,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
        )
        self.audio = Counter(
            "tiny_audio_audio_seconds", "Seconds of audio transcribed.", registry=own
        )
        self.batch_size = Histogram(
            "tiny_audio_batch_size",
            "Spans decoded together.",
            registry=own,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.batch_seconds = Histogram(
            "tiny_audio_batch_seconds", "Time that a batch took.", registry=own
        )
        self.running = Gauge(
            "tiny_audio_requests_running", "Requests accepted, not answered.", registry=own
        )
        self.queue = Gauge("tiny_audio_queue_spans", "Spans that wait.", registry=own)
        self.queue_seconds = Gauge(
            "tiny_audio_queue_seconds", "Seconds of audio that wait.", registry=own
        )

    def batch(self, spans: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_size.observe(spans)
        self.batch_seconds.observe(seconds)


@dataclass
class Service:
    """A model that is served, what is asked of requests, and how many there are."""

    batcher: Batcher
    names: list[str]  # that clients may ask for
    settings: ServeConfig
    keys: list[bytes] = field(default_factory=list)  # none: everybody may
    origins: list[str] = field(default_factory=list)  # other pages that may
    metrics: Metrics = field(default_factory=Metrics)
    running: int = 0  # accepted, not answered
    inside: int = 0  # those and uploads
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def check_room(self) -> None:
        """Raise 429 where no more requests are taken."""
        if self.running >= self.settings.max_requests:
            _, seconds = self.batcher.waiting
            wait = min(60, max(1, math.ceil(seconds / self.batcher.speed)))
            raise api_error(
                429,
                f"The server has {self.running} requests in work: try again in {wait} s.",
                type="requests",
                code="rate_limit_exceeded",
                headers={"retry-after": str(wait)},
            )

    def accept(self, scope: Scope) -> None:
        """Count a request that has come in whole until it is answered, or raise 429."""
        self.check_room()
        self.running += 1
        scope["state"]["accepted"] = True

    def admit(self, scope: Scope) -> None:
        """Raise an error where this request may not come in."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        # A page of another site may not use what only this machine's user should reach.
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != headers.get("host") and origin not in self.origins:
            raise api_error(403, "Pages of other sites may not use this server.", code="bad_origin")
        if not scope["path"].startswith("/v1/") or headers.get("access-control-request-method"):
            return
        if self.keys and not self._knows(headers):
            raise api_error(
                401,
                "Give a valid API key: Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        if scope["path"] not in LOADED:
            return
        if self.stopping.is_set():
            raise api_error(503, "The server is stopping.", type="server_error", code="stopping")
        self.check_room()
        if int(headers.get("content-length", 0)) > self.settings.max_upload_bytes:
            raise self.too_large()

    def too_large(self) -> HTTPException:
        """The answer to an upload of too many bytes."""
        most = self.settings.max_upload_bytes
        return api_error(413, f"Requests may have {most} bytes at most.", code="too_large")

    def _knows(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":  # a browser's WebSocket cannot send that header
            offered = headers.get("sec-websocket-protocol", "").split(",")
            marked = [item.strip() for item in offered if "api-key." in item]
            given = marked[0].partition("api-key.")[2] if marked else ""
        matches = [hmac.compare_digest(given.strip().encode(), key) for key in self.keys]
        return any(matches)


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        from fastapi import HTTPException

        service, begun, status = self._service, time.perf_counter(), GONE
        state = scope.setdefault("state", {})
        state.update(id=f"req_{uuid.uuid4().hex}", audio_seconds=0.0, accepted=False)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", state["id"].encode())]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        service.inside += 1
        try:
            service.admit(scope)
            await self._app(scope, self._bounded(receive), answer)
        except HTTPException as error:
            await error_response(error)(scope, receive, answer)
        except Exception:
            status = 500
            raise
        finally:
            service.inside -= 1
            service.running -= state["accepted"]
            self._record(scope, status, time.perf_counter() - begun)

    def _bounded(self, receive: Receive) -> Receive:
        """A request's body, which must not be large and must come soon."""
        settings = self._service.settings
        deadline = asyncio.get_running_loop().time() + settings.upload_seconds
        held, whole = 0, False

        async def bounded() -> Message:
            nonlocal held, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise api_error(
                    408,
                    f"The request had not come in whole after {settings.upload_seconds:g} s.",
                    code="upload_timeout",
                    headers={"connection": "close"},
                ) from None
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            held += len(message.get("body", b""))
            if held > settings.max_upload_bytes and message["type"] == "http.request":
                raise self._service.too_large()
            return message

        return bounded

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count and log; a path that is not ours is not named, for it could be anything."""
        state, metrics = scope["state"], self._service.metrics
        path = getattr(scope.get("route"), "path", None) or "other"
        metrics.requests.labels(path, status).inc()
        metrics.latency.labels(path).observe(seconds)
        metrics.audio.inc(state["audio_seconds"])
        fields = {
            "id": state["id"],
            "method": scope.get("method", "WEBSOCKET"),
            "path": path,
            "status": status,
            "seconds": round(seconds, 4),
            "audio_seconds": round(state["audio_seconds"], 3),
        }
        logger.info("request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z")
        line = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_json() -> None:
    """Let the server's log, and uvicorn's, go to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("tiny_audio.serve", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)
