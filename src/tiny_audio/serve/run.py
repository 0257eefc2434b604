"""`tiny-audio serve`: from a model's name to a server that stops gracefully."""

from __future__ import annotations

import asyncio
from types import FrameType
from typing import Any

from tiny_audio.config import ServeConfig
from tiny_audio.errors import TinyAudioError
from tiny_audio.serve.app import build_service, create_app
from tiny_audio.serve.gate import Service, log_json
from tiny_audio.serve.ray import serve_replicas


def serve_command(model: str, settings: ServeConfig, *, replicas: int, **options: Any) -> int:
    """Serve a model until SIGTERM or Ctrl-C; then finish what was accepted. Returns the status.

    options: of ``build_service``. replicas: so many, by Ray Serve; 0: one, without it.
    """
    if replicas:
        return serve_replicas(model, replicas, settings, **options)
    service = build_service(model, settings, **options)
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
