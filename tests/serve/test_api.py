"""OpenAI's own client, and curl, get from the server what they expect of OpenAI's."""

import asyncio
import json
import random
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

import tiny_audio
from tests.infer.helpers import tones, write_wav
from tests.serve.helpers import MODEL, Running, running, wav
from tiny_audio.data.synthetic import Synthesiser, draw_voice
from tiny_audio.infer.transcribe import Recogniser

LONG = tones([9.5])[0]  # two windows of the tiny pair


def ask(server: Running, clip: np.ndarray, **options: Any) -> Any:
    return server.client().audio.transcriptions.create(model=MODEL, file=wav(clip), **options)


def test_text_is_what_transcribe_writes(server: Running, recogniser: Recogniser) -> None:
    for clip in [*tones([0.3]), LONG, np.zeros(1, np.float32)]:
        answer = ask(server, clip)
        assert answer.text == recogniser.transcribe(clip).text
        assert answer.usage.type == "duration"
        assert answer.usage.seconds == pytest.approx(len(clip) / 16_000, abs=0.01)
    assert answer.text == ""


def test_every_format(server: Running, recogniser: Recogniser) -> None:
    expected = recogniser.transcribe(LONG, word_timestamps=True)
    assert ask(server, LONG, response_format="text") == expected.text + "\n"
    assert ask(server, LONG, response_format="srt") == expected.to_srt()
    assert ask(server, LONG, response_format="vtt") == expected.to_vtt()
    verbose = ask(
        server,
        LONG,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
    )
    assert (verbose.text, verbose.language) == (expected.text, "en")
    assert verbose.duration == pytest.approx(9.5)
    assert [(s.start, s.end, s.text) for s in verbose.segments] == [
        (s.start, s.end, s.text) for s in expected.segments
    ]
    assert [(w.word, w.start, w.end) for w in verbose.words] == [
        (w.text, w.start, w.end) for s in expected.segments for w in s.words
    ]
    assert all(segment.tokens for segment in verbose.segments)
    only = ask(server, LONG, response_format="verbose_json")
    assert (only.words, len(only.segments)) == (None, 2)


def test_deltas_come_one_by_one_and_make_the_text(server: Running) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra synth")
    text = "the old woman carried a heavy basket to the market"
    clip = Synthesiser()(text, draw_voice(random.Random(0), "test"))
    with running(tiny_audio.load("nano", device="cpu")) as of_nano:
        for one, speech, least in ((of_nano, clip, 5), (server, LONG, 2)):
            events = list(ask(one, speech, stream=True))
            deltas = [event.delta for event in events[:-1]]
            assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
            assert events[-1].type == "transcript.text.done"
            assert "".join(deltas) == events[-1].text == ask(one, speech).text
            assert len(deltas) >= least
            assert events[-1].usage.seconds == pytest.approx(len(speech) / 16_000, abs=0.01)


def test_many_at_once_get_what_they_get_alone(server: Running, recogniser: Recogniser) -> None:
    clips = tones([0.5, 1.0, 2.0, 3.0, 9.0] * 2)
    alone = [recogniser.transcribe(clip).text for clip in clips]

    async def text(client: openai.AsyncOpenAI, clip: np.ndarray, stream: bool) -> str:
        create = client.audio.transcriptions.create
        if not stream:
            return (await create(model=MODEL, file=wav(clip))).text
        events = [e async for e in await create(model=MODEL, file=wav(clip), stream=True)]
        assert "".join(getattr(event, "delta", "") for event in events) == events[-1].text
        return str(events[-1].text)

    async def everything() -> list[str]:
        async with openai.AsyncOpenAI(**server.options()) as client:
            jobs = (text(client, clip, n % 2 == 0) for n, clip in enumerate(clips))
            return await asyncio.gather(*jobs)

    assert len(set(alone)) > 4
    assert asyncio.run(everything()) == alone


def test_models(server: Running) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == [MODEL, "whisper-1"]
    assert client.models.retrieve(MODEL).owned_by == "tiny-audio"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-5")
    assert raised.value.code == "model_not_found"


SHORT = wav(tones([0.5])[0])


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"file": b"no audio at all"}, "file", "invalid_value"),
        ({"file": b""}, "file", "invalid_value"),
        ({"file": SHORT[: len(SHORT) // 2]}, "file", "invalid_value"),
        ({"response_format": "xml"}, "response_format", "invalid_value"),
        ({"temperature": 7}, "temperature", "invalid_value"),
        ({"language": "English"}, "language", "invalid_value"),
        ({"include": ["everything"]}, "include[]", "invalid_value"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities[]", "invalid_value"),
        ({"response_format": "srt", "stream": True}, "response_format", "invalid_value"),
        ({"response_format": "text", "include": ["logprobs"]}, "include[]", "invalid_value"),
        ({"file": wav(np.zeros(200 * 16_000, np.float32))}, "file", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(
    small: Running, options: dict[str, Any], param: str, code: str
) -> None:
    for stream in {options.get("stream", False), True}:
        with pytest.raises(openai.BadRequestError) as raised:
            small.client().audio.transcriptions.create(
                **{"model": MODEL, "file": SHORT, **options, "stream": stream}
            )
        error = raised.value
        if stream == options.get("stream", False):
            assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
        assert "/tmp" not in error.message
        assert error.request_id


@pytest.fixture(scope="module")
def small(recogniser: Recogniser) -> Iterator[Running]:
    """Takes little."""
    with running(
        recogniser, keys=(b"secret", b"other"), max_upload_bytes=100 << 20, max_audio_seconds=100.0
    ) as found:
        found.options = lambda **options: {  # type: ignore[method-assign]
            **Running.options(found),
            "api_key": "secret",
            **options,
        }
        yield found


def test_only_who_has_a_key_comes_in(small: Running) -> None:
    for key in ("Secret", "secre"):
        with pytest.raises(openai.AuthenticationError) as raised:
            list(small.client(api_key=key).models.list())
        assert raised.value.code == "invalid_api_key"
    assert list(small.client(api_key="other").models.list())
    assert urllib.request.urlopen(f"{small.url}/health").status == 200


def curl(url: str, *arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", url, *arguments],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body) if body[:1] in "{[" else body


def test_curl(server: Running, recogniser: Recogniser, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "clip.wav", LONG)
    url, form = f"{server.url}/v1/audio/transcriptions", ("-F", f"model={MODEL}")
    text = recogniser.transcribe(path).text
    assert curl(url, "-F", f"file=@{path}", *form, "-F", "no_such_field=1")[1]["text"] == text
    status, streamed = curl(url, "-F", f"file=@{path}", *form, "-F", "stream=true")
    assert (status, streamed.split()[-1]) == (200, "[DONE]")
    status, body = curl(url, "-F", "file=https://example.com/a.wav", *form)
    assert (status, body["error"]["param"]) == (400, "file")
    status, body = curl(url, "-F", f"file=@{path}")
    assert (status, body["error"]["param"]) == (400, "model")
    assert body["error"]["code"] == "missing_required_parameter"
    status, body = curl(url, "-F", f"file=@{path}", "-F", "model=other")
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    status, body = curl(url, "-d", "{}", "-H", "content-type: application/json")
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert curl(url)[0] == 405
    assert curl(f"{server.url}/nothing")[0] == 404
    status, body = curl(f"{server.url}/v1/models", "-H", "Origin: https://evil.example")
    assert (status, body["error"]["code"]) == (403, "bad_origin")


def test_pages_of_other_sites_are_let_in_by_name(recogniser: Recogniser) -> None:
    friend, other = "https://friend.example", "https://other.example"
    with running(recogniser, origins=(friend,), keys=(b"secret",)) as server:
        url = f"{server.url}/v1/models"
        ask = urllib.request.Request(url, method="OPTIONS")
        ask.add_header("Access-Control-Request-Method", "GET")
        ask.add_header("Origin", friend)
        assert urllib.request.urlopen(ask).headers["access-control-allow-origin"] == friend
        key = ("-H", "Authorization: Bearer secret", "-H")
        assert curl(url, *key, f"Origin: {friend}")[0] == 200
        assert curl(url, *key, f"Origin: {other}")[0] == 403


def test_metrics_count(server: Running) -> None:
    ask(server, LONG)
    _, text = curl(f"{server.url}/metrics")
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    path = 'path="/v1/audio/transcriptions"'
    assert float(found[f'tiny_audio_requests_total{{{path},status="200"}}']) >= 1
    assert float(found["tiny_audio_audio_seconds_total"]) >= 9.5
    assert float(found["tiny_audio_batch_size_count"]) >= 1
    assert float(found["tiny_audio_requests_running"]) == 0
    assert curl(f"{server.url}/ready")[1] == {"ready": True}
