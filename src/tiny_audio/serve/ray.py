"""The same application as a Ray Serve deployment (extra ``ray``): replicas, on many machines.

``serve run tiny_audio.serve.ray:app model=nano replicas=2`` or
``tiny-audio serve nano --replicas 2``.
Ray starts replicas, shares requests out, and starts anew what dies; each replica batches its own.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import asdict
from typing import Any, NoReturn

from tiny_audio.config import ServeConfig
from tiny_audio.errors import missing_extra


def app(args: dict[str, Any]) -> Any:
    """A Ray Serve application; ``args``: model, replicas, and what ``build_service`` takes.

    Each replica reads API keys itself, from a file or its environment.
    """
    try:
        from ray import serve
    except ImportError:
        raise missing_extra("replicas need Ray", "ray") from None
    options = {"model": "nano", "names": [], "key_file": None, "origins": [], **args}
    replicas = int(options.pop("replicas", 1))
    settings = ServeConfig(**options.pop("settings", {}))

    def build() -> Any:
        from tiny_audio.serve.app import build_service, create_app
        from tiny_audio.serve.gate import log_json

        log_json()
        return create_app(build_service(settings=settings, **options))

    deployment = serve.deployment(
        name="tiny-audio",
        num_replicas=replicas,
        max_ongoing_requests=2 * settings.max_requests,  # beyond max_requests we answer 429
        graceful_shutdown_timeout_s=600,  # for what was accepted
        health_check_period_s=2,
    )(serve.ingress(build)())
    return deployment.bind()


def serve_replicas(model: str, replicas: int, settings: ServeConfig, **options: Any) -> NoReturn:
    """Serve with replicas on a Ray cluster, or on this machine alone, until SIGTERM or Ctrl-C."""
    application = app(
        {"model": model, "replicas": replicas, "settings": asdict(settings), **options}
    )
    import ray.serve

    serve: Any = ray.serve
    serve.start(http_options={"host": settings.host, "port": settings.port})
    serve.run(application, name="tiny-audio")
    told = threading.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):  # after Ray, which sets its own
        signal.signal(sig, lambda *_: told.set())
    told.wait()
    serve.shutdown()
    ray.shutdown()
    logging.shutdown()
    os._exit(0)  # all was answered; at Python's end Ray's own threads sometimes abort the process
