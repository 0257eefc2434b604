"""Live audio through OpenAI's own realtime client, on speech that the bundled pair understands."""

import asyncio
import base64
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import openai
import pytest
import soxr

from tests.serve.helpers import MODEL, Running, wav
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.evaluate.wer import score
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.text.scoring import get_rule

RATE, BLOCK = 24_000, 4_800  # 200 ms
SILENCE = np.zeros(16_000, np.float32)
PREFIX = "conversation.item.input_audio_transcription."


@pytest.fixture(scope="module")
def spoken() -> list[Any]:
    return list(islice(synthetic_utterances("test", seed=11), 3))


def appends(clip: np.ndarray) -> Iterator[str]:
    """A clip [S] of 16 kHz as it goes over the line."""
    pcm = (soxr.resample(clip, 16_000, RATE) * 32_767).clip(-32_768, 32_767).astype("<i2")
    for n in range(0, len(pcm), BLOCK):
        yield base64.b64encode(pcm[n : n + BLOCK].tobytes()).decode()


def session(turns: dict[str, Any] | None) -> Any:
    return {"type": "transcription", "audio": {"input": {"turn_detection": turns}}}


def test_lines_come_as_they_are_spoken(guarded: Running, spoken: list[Any]) -> None:
    """And words before their line is complete."""
    events: list[Any] = []

    async def talk() -> None:
        client = openai.AsyncOpenAI(**guarded.options(api_key="secret"))
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as socket:
            for clip in [SILENCE, *(x for u in spoken for x in (u.waveform, SILENCE))]:
                for audio in appends(clip):
                    await socket.input_audio_buffer.append(audio=audio)
            async for event in socket:
                events.append(event)
                done = [e for e in events if e.type == PREFIX + "completed"]
                if len(done) == len(spoken):
                    return

    asyncio.run(asyncio.wait_for(talk(), 120))
    assert events[0].type == "session.created"
    assert events[0].session.type == "transcription"
    items = [e.item_id for e in events if e.type == "input_audio_buffer.speech_started"]
    assert len(items) == len(spoken)
    begun = 1.0
    for item, utterance in zip(items, spoken, strict=True):
        own = [e for e in events if getattr(e, "item_id", None) == item]
        kinds = list(dict.fromkeys(e.type for e in own))
        deltas = [e.delta for e in own if e.type == PREFIX + "delta"]
        assert kinds[0] == "input_audio_buffer.speech_started"
        assert kinds[-1] == PREFIX + "completed"
        assert kinds.index("input_audio_buffer.speech_stopped") < kinds.index(
            "input_audio_buffer.committed"
        )
        assert "".join(deltas) == own[-1].transcript
        assert own[0].audio_start_ms / 1000 == pytest.approx(begun, abs=0.6)
        begun += utterance.seconds + 1.0
    texts = [e.transcript for e in events if e.type == PREFIX + "completed"]
    rate = score([u.text for u in spoken], texts, get_rule("whisper-en")).words.rate
    assert rate is not None
    assert rate < 0.2


def test_what_is_committed_is_transcribed(
    guarded: Running, nano: Recogniser, spoken: list[Any]
) -> None:
    client = guarded.client(api_key="secret")
    transcripts, deltas, errors = [], [], []
    with client.realtime.connect(extra_query={"intent": "transcription"}) as socket:
        socket.session.update(session=session(None))
        socket.input_audio_buffer.append(audio=next(appends(SILENCE)))
        socket.input_audio_buffer.clear()
        socket.input_audio_buffer.commit(event_id="too soon")
        for utterance in spoken:
            for audio in appends(utterance.waveform):
                socket.input_audio_buffer.append(audio=audio)
            socket.input_audio_buffer.commit()
        for event in socket:
            if event.type == "error":
                errors.append((event.error.code, event.error.event_id))
            elif event.type == PREFIX + "delta":
                deltas.append((event.item_id, event.delta))
            elif event.type == PREFIX + "completed":
                transcripts.append((event.item_id, event.transcript))
            if len(transcripts) == len(spoken):
                break
    assert errors == [("input_audio_buffer_commit_empty", "too soon")]
    for item, transcript in transcripts:
        assert "".join(delta for of, delta in deltas if of == item) == transcript
    assert len(deltas) > 3 * len(spoken)
    expected = [nano.transcribe(utterance.waveform).text for utterance in spoken]
    heard = {text for _, text in transcripts}
    assert len(heard & set(expected)) >= 2  # 24 kHz and 16 bits may change a word


@pytest.mark.parametrize(
    ("event", "param"),
    [
        ({"type": "response.create"}, "type"),
        ({"type": "input_audio_buffer.append", "audio": "é"}, "audio"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "session.type"),
        ({"type": "session.update", "session": session({"type": "semantic_vad"})},
         "session.audio.input.turn_detection.type"),
        ({"type": "session.update", "session": {"type": "transcription", "audio": 7}}, "session"),
    ],
)  # fmt: skip
def test_mistakes_are_told_and_cost_nothing(guarded: Running, event: Any, param: str) -> None:
    client = guarded.client(api_key="secret")
    with client.realtime.connect(extra_query={"intent": "transcription"}) as socket:
        assert socket.recv().type == "session.created"
        socket.send(event)
        answer = socket.recv()
        assert (answer.type, answer.error.param) == ("error", param)
        socket.session.update(session=session(None))
        assert socket.recv().type == "session.updated"


def test_who_has_no_key_gets_no_connection(guarded: Running) -> None:
    client = guarded.client(api_key="wrong")
    with pytest.raises(Exception, match="401"), client.realtime.connect():
        pass


def test_logprobs_are_of_the_tokens(guarded: Running, spoken: list[Any]) -> None:
    answer = guarded.client(api_key="secret").audio.transcriptions.create(
        model=MODEL, file=wav(spoken[0].waveform), include=["logprobs"]
    )
    written = b"".join(bytes(map(int, token.bytes)) for token in answer.logprobs)
    assert written.decode().strip() == answer.text
    assert all(token.logprob <= 0 for token in answer.logprobs)
