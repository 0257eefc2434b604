"""A server in this process, and recordings as clients send them."""

import io
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import openai
import psutil
import soundfile
import uvicorn

from tests.conftest import REPO
from tiny_audio.config import ServeConfig
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.serve.app import create_app, make_service
from tiny_audio.serve.gate import Service

MODEL = "tiny"


def wav(clip: np.ndarray, rate: int = 16_000) -> bytes:
    """A clip [S] as a file."""
    file = io.BytesIO()
    soundfile.write(file, clip, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


@dataclass
class Running:
    """A server that listens."""

    service: Service
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**self.options(**options))

    def options(self, **options: Any) -> dict[str, Any]:
        return {"base_url": f"{self.url}/v1", "api_key": "any", "max_retries": 0, **options}


@contextmanager
def running(
    recogniser: Recogniser,
    *,
    keys: tuple[bytes, ...] = (),
    origins: tuple[str, ...] = (),
    batch: int = 64,
    **settings: Any,
) -> Iterator[Running]:
    """A server on a thread of this process, gracefully stopped at the end."""
    config = ServeConfig(**settings)
    service = make_service(
        recogniser.model,
        config,
        names=[MODEL, "whisper-1"],
        keys=list(keys),
        origins=list(origins),
        max_utterances=batch,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(service), log_config=None, access_log=False, lifespan="off")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Running(service, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        service.batcher.close()


@contextmanager
def spawned(
    *arguments: str, stderr: int, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`tiny-audio serve` in a process of its own: its address once it is ready, the process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tiny_audio", "serve", *arguments, "--port", str(port)],
        cwd=REPO, stdout=subprocess.DEVNULL, stderr=stderr, text=True,
        env={**os.environ, "PYTHONPATH": str(REPO / "src"), **environment},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url, process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    for _ in range(2000):  # 400 s: Ray starts six processes
        assert process.poll() is None, process.stderr
        try:
            if urllib.request.urlopen(f"{url}/ready").status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("not ready in 400 s")
