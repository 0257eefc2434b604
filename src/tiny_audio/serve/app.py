"""The application: OpenAI's transcription API, health and metrics, and a page to try it."""

# Without `from __future__ import annotations`: FastAPI is imported where it is used and reads the
# annotations of what is defined there.

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tiny_audio.config import Config, EvaluationConfig, ServeConfig
from tiny_audio.errors import missing_extra
from tiny_audio.infer.transcribe import load
from tiny_audio.model.speech import SpeechModel
from tiny_audio.serve.answers import Query, Recording, formed, streamed
from tiny_audio.serve.batcher import Batcher, Part
from tiny_audio.serve.gate import GONE, Gate, Metrics, Service, api_error, error_response, read_keys

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response

T = TypeVar("T")

PAGE = Path(__file__).parent / "page"


class Gone(Exception):
    """The client has hung up."""


def make_service(
    model: SpeechModel,
    settings: ServeConfig,
    *,
    names: list[str],
    keys: list[bytes],
    origins: list[str],
    batch_seconds: float = EvaluationConfig.batch_seconds,
    max_utterances: int = EvaluationConfig.max_utterances,
) -> Service:
    """Put a model to work and say who may ask it what."""
    try:
        import fastapi as fastapi
        import python_multipart as python_multipart
        import websockets as websockets

        metrics = Metrics()
    except ImportError as error:
        raise missing_extra(f"serving needs {error.name}", "serve") from None
    batcher = Batcher(
        model.eval(),
        batch_seconds=batch_seconds,
        max_utterances=max_utterances,
        observe=metrics.batch,
    )
    metrics.queue.set_function(lambda: batcher.waiting[0])
    metrics.queue_seconds.set_function(lambda: batcher.waiting[1])
    service = Service(batcher, names, settings, keys, origins, metrics)
    metrics.running.set_function(lambda: service.running)
    return service


def build_service(
    model: str,
    settings: ServeConfig,
    *,
    names: list[str],
    key_file: Path | None,
    device: str = Config.device,
    dtype: str | None = "auto",
    quantise: str | None = None,
    **options: Any,
) -> Service:
    """A service of a model by its name, with keys from a file and the environment; the other
    options are those of ``make_service``."""
    keys = read_keys(key_file)
    recogniser = load(model, device=device, dtype=dtype, quantise=quantise)
    return make_service(recogniser.model, settings, names=names or [model], keys=keys, **options)


def create_app(service: Service) -> "FastAPI":
    """The application around a service."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.responses import Response
    from starlette.exceptions import HTTPException as PlainHTTPException

    from tiny_audio.serve.realtime import add_realtime

    app = FastAPI(title="Tiny Audio", docs_url=None, redoc_url=None)
    app.state.service = service

    @app.exception_handler(PlainHTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = str(first["loc"][1])
        if first["type"] == "missing":
            what = f"You must provide {param}.", "missing_required_parameter"
        else:
            what = f"{param}: {first['msg']}.", "invalid_value"
        return error_response(api_error(400, what[0], param=param, code=what[1]))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return error_response(api_error(500, "The server failed.", type="server_error"))

    add_health(app, service)
    add_models(app, service)
    add_transcriptions(app, service)
    add_realtime(app, service)
    app.add_middleware(Gate, service=service)
    if service.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app


def add_health(app: "FastAPI", service: Service) -> None:
    """What an operator asks, and the page."""
    from fastapi.responses import JSONResponse, Response
    from fastapi.staticfiles import StaticFiles
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = service.batcher.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        open_ = service.batcher.alive and not service.stopping.is_set()
        return JSONResponse({"ready": open_}, 200 if open_ else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response((PAGE / "index.html").read_text(), media_type="text/html")

    app.mount("/page", StaticFiles(directory=PAGE))


def add_models(app: "FastAPI", service: Service) -> None:
    """The list of models, which are one under its names."""
    begun = int(time.time())

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": begun, "owned_by": "tiny-audio"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in service.names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        check_name(service, name)
        return described(name)


def check_name(service: Service, name: str) -> None:
    """Raise 404 where no model has this name."""
    if name not in service.names:
        known = " or ".join(service.names)
        message = f"The model `{name}` does not exist: ask for {known}."
        raise api_error(404, message, param="model", code="model_not_found")


def add_transcriptions(app: "FastAPI", service: Service) -> None:
    """The endpoint for files."""
    from fastapi import File, Form, Request, UploadFile
    from fastapi.responses import Response

    language_code = Form(pattern="^[a-z]{2,3}$")

    @app.post("/v1/audio/transcriptions", response_model=None)
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()],
        granularities: Annotated[
            list[Literal["word", "segment"]],
            Form(alias="timestamp_granularities[]", default_factory=list),
        ],
        include: Annotated[
            list[Literal["logprobs"]], Form(alias="include[]", default_factory=list)
        ],
        language: Annotated[str | None, language_code] = None,
        prompt: Annotated[str | None, Form()] = None,
        response_format: Annotated[
            Literal["json", "text", "srt", "verbose_json", "vtt"], Form()
        ] = "json",
        temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
        stream: Annotated[bool, Form()] = False,
    ) -> Response:
        check_name(service, model)
        query = Query(response_format, granularities, bool(include), stream, language, temperature)
        query.check()
        own = os.fdopen(os.dup(file.file.fileno()), "rb")
        recording = Recording(own, service.settings.max_audio_seconds, request.scope["state"])
        return await answer(service, request, recording, query)


async def answer(
    service: Service, request: "Request", recording: Recording, query: Query
) -> "Response":
    """Transcribe a recording and give the answer its form."""
    from fastapi.responses import Response, StreamingResponse

    service.accept(request.scope)
    model = service.batcher.model
    items = service.batcher.transcribe(
        recording.spans(model.window_seconds), query.wish, pieces=query.stream
    )
    try:
        if query.stream:  # what fails at once is no stream yet
            first = await while_connected(request, anext(items, None))
            events = streamed(service, recording, query, first, items)
            return StreamingResponse(events, media_type="text/event-stream")
        parts = await while_connected(request, collect(items))
    except Gone:
        return Response(status_code=GONE)
    return formed(service, recording, query, parts)


async def collect(items: AsyncIterator[str | Part]) -> list[Part]:
    """All parts of a recording."""
    return [item async for item in items if isinstance(item, Part)]


async def while_connected(request: "Request", work: Awaitable[T]) -> T:
    """The result of some work, which is given up, with Gone, when the client hangs up."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async def result() -> T:
        return await work

    working, leaving = asyncio.create_task(result()), asyncio.create_task(hung_up())
    tasks = working, leaving
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
