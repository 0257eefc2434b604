"""A server under load: ours, and plain transformers code behind FastAPI, in the same run.

The clients are one process, each server is another, on the same cores. `python -m bench.serve PORT`
is the plain server: one recording at a time, as it comes.
"""

# Without `from __future__ import annotations`: FastAPI reads annotations where they are defined.

import asyncio
import io
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import aiohttp
import numpy as np
import psutil
import soundfile

import tiny_audio
from bench.common import print_rows
from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.data.synthetic import synthetic_utterances

CLIENTS = (1, 8, 64)
SENTENCES, SEED = 64, 777
ROUNDS = {1: 64, 8: 192, 64: 768}  # requests at so many clients
GOAL = 3.0  # times the throughput of one client alone
WARM = 0.1  # of the requests for memory, before which it may grow
FLAT = 1.05

Clip = tuple[bytes, float, str]  # as a file, seconds, the text that ours writes


@contextmanager
def listening(command: list[str], port: int) -> Iterator[psutil.Process]:
    """A server as a process of its own, once it answers."""
    command = [sys.executable, "-m", *command]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Load:
    """Clients that ask again and again."""

    def __init__(self, port: int, clips: list[Clip]) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
        self._clips = clips
        self.wrong = 0  # answers that are not ours alone

    async def _client(self, session: aiohttp.ClientSession, numbers: Iterator[int]) -> list[float]:
        took = []
        for number in numbers:
            data, _, text = self._clips[number % len(self._clips)]
            form = aiohttp.FormData({"model": "nano"})
            form.add_field("file", data, filename="a.wav")
            begun = time.perf_counter()
            async with session.post(self._url, data=form) as answer:
                found = (await answer.json())["text"]
            took.append(time.perf_counter() - begun)
            self.wrong += found != text
        return took

    async def _ask(self, clients: int, requests: int) -> list[float]:
        numbers = iter(range(requests))  # whoever is free takes the next
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
            asking = [self._client(session, numbers) for _ in range(clients)]
            return list(itertools.chain(*await asyncio.gather(*asking)))

    def ask(self, clients: int, requests: int) -> list[float]:
        """Seconds that each request took."""
        return asyncio.run(self._ask(clients, requests))

    def measure(self, name: str, clients: int, first: float) -> float:
        """Print a row; seconds of audio a second."""
        requests = ROUNDS[clients]
        self.wrong, begun = 0, time.perf_counter()
        took = self.ask(clients, requests)
        wall = time.perf_counter() - begun
        audio = sum(self._clips[n % len(self._clips)][1] for n in range(requests))
        rate = audio / wall
        p50, p95, p99 = np.quantile(took, [0.5, 0.95, 0.99])
        print_rows(
            [
                name,
                str(clients),
                f"{requests / wall:.1f}",
                f"{rate:.1f}",
                f"{rate / (first or rate):.2f} x",
                *(f"{1000 * x:.0f} ms" for x in (p50, p95, p99)),
                str(self.wrong),
            ]
        )
        return rate


def run(requests: int) -> bool:
    """Print throughput and latency of both servers, and memory of ours over many requests; returns
    whether every text is what a recording gets alone, the goal is met and memory is flat."""
    nano = tiny_audio.load("nano", device="cpu")
    spoken = [u.waveform for u in islice(synthetic_utterances("test", seed=SEED), SENTENCES)]
    texts = [nano.transcribe(wave).text for wave in spoken]
    clips = [(_wav(w), len(w) / SAMPLE_RATE, t) for w, t in zip(spoken, texts, strict=True)]
    print(f"\n### serve: nano, {SENTENCES} sentences of {np.mean([c[1] for c in clips]):.1f} s\n")
    header = ["server", "clients", "requests/s", "audio s/s", "vs first", "p50", "p95", "p99"]
    print_rows([*header, "other text"], ["---"] + ["---:"] * len(header))
    ports = free_port(), free_port()
    with listening(["bench.serve", str(ports[1])], ports[1]):
        plain = Load(ports[1], clips)
        plain.ask(CLIENTS[-1], CLIENTS[-1])  # warm
        first = plain.measure("plain", CLIENTS[0], 0.0)
        for clients in CLIENTS[1:]:
            plain.measure("plain", clients, first)
    command = ["tiny_audio", "serve", "nano", "--device", "cpu", "--port", str(ports[0])]
    with listening(command, ports[0]) as process:
        ours = Load(ports[0], clips)
        ours.ask(CLIENTS[-1], CLIENTS[-1])
        rates, wrong = {}, 0
        for clients in CLIENTS:
            rates[clients] = ours.measure("ours", clients, first)
            wrong += ours.wrong
        gain = rates[CLIENTS[-1]] / rates[CLIENTS[0]]
        print(f"\nOurs, {CLIENTS[-1]} clients against one at a time: {gain:.2f} x")
        flat = memory(ours, process, requests)
    return flat and wrong == 0 and gain >= GOAL


def memory(load: Load, process: psutil.Process, requests: int) -> bool:
    """Print the memory of a server after each tenth of many requests; whether it is flat."""
    held = []
    for _ in range(round(1 / WARM)):
        load.ask(CLIENTS[-1], round(WARM * requests))
        held.append(process.memory_info().rss / 2**20)
    print(f"\nMemory after each tenth of {requests} requests, MiB: {[round(x) for x in held]}")
    return held[-1] <= FLAT * held[0]


def _wav(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def serve_plain(port: int) -> None:
    """What a competent user of transformers and FastAPI writes."""
    import uvicorn
    from fastapi import FastAPI, Form, UploadFile

    from bench.load import host_mel
    from bench.plain import Plain

    model = tiny_audio.load("nano", device="cpu").model
    plain = Plain(model)
    app = FastAPI()

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(file: UploadFile, model_: Annotated[str, Form(alias="model")]) -> dict:
        waveform, _ = soundfile.read(file.file, dtype="float32")
        mel = host_mel(plain.extractor, [waveform], "longest")
        n_audio = model.audio_tokens(len(waveform))
        ids = plain.decode(mel, n_audio, 24 + len(waveform) // 1_600, exact=False)
        return {"text": model.tokenizer.decode(ids, skip_special_tokens=True).strip()}

    uvicorn.run(app, port=port, log_level="error")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    serve_plain(int(sys.argv[1]))
