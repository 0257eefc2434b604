"""`tiny-audio serve`: from a model's name to a server that stops gracefully."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import FrameType

from tiny_audio.config import ServeConfig
from tiny_audio.errors import TinyAudioError
from tiny_audio.infer.transcribe import load
from tiny_audio.serve.app import create_app, make_service
from tiny_audio.serve.gate import Service, log_json, read_keys


def serve_command(
    model: str,
    settings: ServeConfig,
    *,
    names: list[str],
    key_file: Path | None,
    origins: list[str],
    device: str,
    dtype: str | None,
    quantise: str | None,
    batch_seconds: float,
    max_utterances: int,
) -> int:
    """Serve a model until SIGTERM or Ctrl-C; then finish what was accepted. Returns the status."""
    keys = read_keys(key_file)
    service = make_service(
        load(model, device=device, dtype=dtype, quantise=quantise).model,
        settings,
        names=names or [model],
        keys=keys,
        origins=origins,
        batch_seconds=batch_seconds,
        max_utterances=max_utterances,
    )
    log_json()
    return run(service)


def run(service: Service) -> int:
    """Serve until told to stop; 0, or 1 where it was told twice and requests were lost."""
    import uvicorn

    settings = service.settings

    class Server(uvicorn.Server):
        """The first signal stops taking requests, and when all are answered the server."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.force_exit = service.stopping.is_set()
            service.stopping.set()

        async def on_tick(self, counter: int) -> bool:
            over = service.stopping.is_set() and not service.inside
            return await super().on_tick(counter) or over or self.force_exit

    config = uvicorn.Config(
        create_app(service),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=16 << 20,
    )
    server = Server(config)
    try:
        asyncio.run(server.serve())
    except SystemExit:
        raise TinyAudioError(
            f"{settings.host}:{settings.port} cannot be listened to: choose another --port."
        ) from None
    if server.force_exit:
        return 1
    service.batcher.close()
    return 0
