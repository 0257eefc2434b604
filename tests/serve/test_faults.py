"""Clients that do what they should not, and a server that stops: nobody else notices."""

import asyncio
import io
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
import soundfile

from tests.infer.helpers import tones
from tests.serve.helpers import MODEL, Running, running, spawned, wav
from tiny_audio.infer.transcribe import Recogniser

GOOD, BAD = 32, 32
CLIPS = tones([0.5, 0.9, 1.4, 3.0])


@pytest.fixture(scope="module")
def strict(recogniser: Recogniser) -> Iterator[Running]:
    with running(
        recogniser, upload_seconds=2.0, max_upload_bytes=4 << 20, max_audio_seconds=60.0
    ) as found:
        yield found


def request(body: bytes, *, length: int | None = None) -> bytes:
    """A whole HTTP request with a file."""
    form = (
        b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + MODEL.encode() + b"\r\n"
        b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + body + b"\r\n--X--\r\n"
    )  # fmt: skip
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=X\r\nContent-Length: {length or len(form)}"
        "\r\n\r\n"
    )
    return head.encode() + form


def hours(seconds: int) -> bytes:
    """Silence, of which hours are small."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 16_000, 1, format="FLAC") as sound:
        for _ in range(seconds // 60):
            sound.write(np.zeros(960_000, np.int16))
    return file.getvalue()


HOURS = hours(3 * 3600)


async def misbehave(number: int, port: int) -> bytes:
    """One client; what it was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    whole = request(wav(CLIPS[3]))
    kind = number % 6
    try:
        if kind == 0:  # garbage
            writer.write(b"\x16\x03\x01 not HTTP at all\r\n\r\n")
        elif kind == 1:  # half a file, and gone
            writer.write(whole[: len(whole) // 2])
            await writer.drain()
            return b"gone"
        elif kind == 2:  # the whole, and gone before the answer
            writer.write(whole)
            await writer.drain()
            await asyncio.sleep(0.05)
            return b"gone"
        elif kind == 3:  # byte after byte
            for n in range(0, len(whole), 7):
                writer.write(whole[n : n + 7])
                await writer.drain()
                await asyncio.sleep(0.2)
                if reader.at_eof() or n > 7 * 20:
                    break
        elif kind == 4:  # hours in a small file
            writer.write(request(HOURS))
        else:  # larger than allowed, as it turns out
            writer.write(request(b"\0" * (5 << 20), length=3 << 20))
        return await asyncio.wait_for(reader.read(), timeout=60)
    except ConnectionError:
        return b"refused"
    finally:
        writer.close()


def test_among_64_clients_the_good_get_what_they_get_alone(
    strict: Running, recogniser: Recogniser
) -> None:
    alone = [recogniser.transcribe(clip).text for clip in CLIPS]

    async def good(client: openai.AsyncOpenAI, number: int) -> str:
        file = wav(CLIPS[number % len(CLIPS)])
        return (await client.audio.transcriptions.create(model=MODEL, file=file)).text

    async def everybody() -> tuple[list[str], list[bytes]]:
        async with openai.AsyncOpenAI(**strict.options()) as client:
            fine = asyncio.gather(*(good(client, n) for n in range(GOOD)))
            others = asyncio.gather(*(misbehave(n, strict.port) for n in range(BAD)))
            return await fine, await others

    texts, answers = asyncio.run(everybody())
    assert texts == [alone[n % len(alone)] for n in range(GOOD)]
    statuses = [re.findall(rb"^HTTP/1.1 (\d+)|^(\w+)$", answer)[:1] for answer in answers]
    seen = {kind: {b"".join(s[0]) for s in statuses[kind::6] if s} for kind in range(6)}
    assert seen[0] == {b"400"}
    assert seen[1] | seen[2] == {b"gone"}
    assert seen[3] == {b"408"}
    assert seen[4] == {b"400"}  # longer than allowed
    assert seen[5] <= {b"413", b"400", b"408", b"refused"}
    deadline = time.monotonic() + 20
    while strict.service.inside and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (strict.service.inside, strict.service.running) == (0, 0)
    assert strict.service.batcher.waiting == (0, 0)


def test_more_than_fit_are_told_to_come_again(recogniser: Recogniser) -> None:
    with running(recogniser, max_requests=2, batch=1) as full:

        def ask(_: int) -> Any:
            try:
                return full.client().audio.transcriptions.create(model=MODEL, file=wav(CLIPS[3]))
            except openai.RateLimitError as error:
                return error.code, int(error.response.headers["retry-after"]) >= 1

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
        refused = [answer for answer in answers if isinstance(answer, tuple)]
        assert set(refused) == {("rate_limit_exceeded", True)}
        assert len(refused) < 12
        assert ask(0).text


def test_a_long_recording_holds_nobody_up(recogniser: Recogniser) -> None:
    """And what hangs up is not decoded to its end."""
    with running(recogniser, batch=2, max_upload_bytes=1 << 30) as server:
        long = server.client(timeout=1.0)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                lambda: long.audio.transcriptions.create(
                    model=MODEL, file=wav(np.tile(tones([8.0])[0], 150))
                )
            )
            while not server.service.batcher.waiting[0]:
                assert not waiting.done()
                time.sleep(0.01)
            done = server.client().audio.transcriptions.create(model=MODEL, file=wav(CLIPS[0]))
            assert done.text == recogniser.transcribe(CLIPS[0]).text
            assert isinstance(waiting.exception(), openai.APITimeoutError)
        deadline = time.monotonic() + 20
        while server.service.running and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.service.batcher.waiting == (0, 0)


@pytest.mark.slow
def test_sigterm_under_load_loses_nothing(checkpoint: str, recogniser: Recogniser) -> None:
    arguments = (checkpoint, "--name", MODEL, "--batch-size", "2")
    with spawned(*arguments, stderr=subprocess.PIPE) as (url, process):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)

        def ask(number: int) -> str:
            time.sleep(0.1 * max(0, number - 8))
            try:
                file = wav(CLIPS[number % 4])
                return client.audio.transcriptions.create(model=MODEL, file=file).text
            except openai.InternalServerError as error:
                return f"{error.status_code} {error.code}"
            except openai.APIConnectionError as error:  # nobody listens any more
                return str(error.__cause__)

        with ThreadPoolExecutor(40) as pool:
            answers = pool.map(ask, range(40))
            while running_requests(url) < 6:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            texts = list(answers)
        alone = [recogniser.transcribe(clip).text for clip in CLIPS]
        refused = re.compile("503 stopping|.*Connection refused")
        answered = [n for n, text in enumerate(texts) if not refused.fullmatch(text)]
        assert 6 <= len(answered) < 40
        assert [texts[n] for n in answered] == [alone[n % 4] for n in answered]
        assert process.wait(timeout=60) == 0
        log = process.stderr.read() if process.stderr else ""
        assert log.count('"status": 200') >= len(answered)
        assert "a.wav" not in log


def running_requests(url: str) -> float:
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    found = re.search(r"^tiny_audio_requests_running (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
