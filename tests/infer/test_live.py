"""Live audio: what has settled stays, blocks do not matter, lines are those that were spoken."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_audio
from tests.infer.helpers import tones
from tiny_audio import cli
from tiny_audio.data.synthetic import Synthesiser, Voice
from tiny_audio.errors import ConfigError
from tiny_audio.infer.listen import raw_pcm
from tiny_audio.infer.live import LiveTranscriber, LiveUpdate
from tiny_audio.infer.transcribe import Recogniser, Transcript
from tiny_audio.infer.vad import Loudness

pytest.importorskip("espeakng_loader", reason="needs the extra synth")

RATE = 16_000
SENTENCES = ("please open the window", "the cat is under the table")
VOICE = Voice("gmw/en-US+f5", 150, 50, 50)


@pytest.fixture(scope="module")
def nano() -> Recogniser:
    return tiny_audio.load("nano", device="cpu")


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    speak = Synthesiser()
    return [speak(text, VOICE) for text in SENTENCES]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def updates(model: Recogniser, blocks: Iterable[np.ndarray], **options: object) -> list[LiveUpdate]:
    """All updates of a stream, each checked against those before it."""
    found = list(model.stream(iter(blocks), **{"clock": None, **options}))  # type: ignore[arg-type]
    settled = ""
    for update in found:
        settled += update.settled
        assert update.text == settled
        if update.final:
            assert " ".join(word.text for word in update.words) == settled
            settled = ""
    assert settled == ""  # each line was completed
    return found


def lines(found: list[LiveUpdate]) -> list[str]:
    return [update.text for update in found if update.final and update.text]


@pytest.fixture(scope="module")
def talk(spoken: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([silence(1.0), spoken[0], silence(1.5), spoken[1], silence(0.2)])


@pytest.fixture(scope="module")
def heard(nano: Recogniser, talk: np.ndarray) -> list[LiveUpdate]:
    return updates(nano, [talk])


def test_two_utterances_are_two_lines_with_their_times(
    nano: Recogniser, spoken: list[np.ndarray], heard: list[LiveUpdate]
) -> None:
    assert lines(heard) == [nano.transcribe(wave).text for wave in spoken] == list(SENTENCES)
    first, second = [update.words for update in heard if update.final]
    later = 1.0 + len(spoken[0]) / RATE + 1.5
    assert first[0].start == pytest.approx(1.0, abs=0.2)
    assert 1.5 < first[-1].end < 1.0 + len(spoken[0]) / RATE + 0.1
    assert second[0].start == pytest.approx(later, abs=0.2)
    for words in (first, second):
        times = [t for word in words for t in (word.start, word.end)]
        assert times == sorted(times)
    assert second[-1].end <= later + len(spoken[1]) / RATE + 0.2


def test_words_show_and_settle_while_they_are_spoken(heard: list[LiveUpdate]) -> None:
    growing = [update for update in heard if not update.final]
    assert any(update.partial for update in growing)
    assert sum(bool(update.settled) for update in growing) > 2
    assert all(a.end <= b.start or b.final for a, b in pairwise(u for u in heard if u.settled))


@settings(max_examples=4)
@given(seed=st.integers(0, 999), longest=st.sampled_from([1, 700, 9_000, 90_000]))
def test_block_lengths_do_not_matter(
    nano: Recogniser, talk: np.ndarray, heard: list[LiveUpdate], seed: int, longest: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest + 1, size=3 if longest == 1 else len(talk) // longest)
    blocks = np.split(talk, np.minimum(np.cumsum(sizes), len(talk)))
    assert updates(nano, blocks) == heard


class Spy:
    """Recognises like the model, and remembers how long each stretch was; work takes `cost`."""

    def __init__(self, recogniser: Recogniser, cost: float = 0.0) -> None:
        self.recogniser, self.cost, self.now = recogniser, cost, 0.0
        self.seconds: list[float] = []

    def __call__(self, stretch: np.ndarray) -> Transcript:
        self.seconds.append(len(stretch) / RATE)
        self.now += self.cost
        return self.recogniser.transcribe(stretch, word_timestamps=True)

    def clock(self) -> float:
        return self.now


def test_a_slow_machine_makes_fewer_hypotheses_and_hears_everything(
    nano: Recogniser, talk: np.ndarray, heard: list[LiveUpdate]
) -> None:
    blocks = np.split(talk, range(1600, len(talk), 1600))
    counts = []
    for cost in (0.0, 2.0):
        spy = Spy(nano, cost)
        assert lines(updates(nano, blocks, decode=spy, clock=spy.clock)) == lines(heard)
        counts.append(len(spy.seconds))
    assert counts[1] < counts[0] / 2
    whole = Spy(nano)
    assert lines(updates(nano, [talk], decode=whole, clock=whole.clock)) == lines(heard)
    assert len(whole.seconds) <= 4


def test_speech_without_a_pause_is_cut_between_words(
    nano: Recogniser, spoken: list[np.ndarray]
) -> None:
    spy, made, most = Spy(nano), [], 0
    endless = np.concatenate([wave[: -len(wave) // 8] for wave in spoken] * 4)

    def blocks() -> Iterator[np.ndarray]:
        nonlocal most
        for first in range(0, len(endless), 8000):
            block = endless[first : first + 8000].copy()
            made.append(weakref.ref(block))
            most = max(most, sum(ref() is not None for ref in made))
            yield block
            del block

    found = updates(nano, blocks(), decode=spy, max_seconds=4.0, interval=0.8)
    assert len(lines(found)) > 2
    assert max(spy.seconds) <= 4.0
    assert most <= 2  # blocks are not held
    times = [t for u in found if u.final for word in u.words for t in (word.start, word.end)]
    assert times == sorted(times)
    text, whole = " ".join(lines(found)), " ".join(SENTENCES * 4)
    assert jiwer.wer(whole, text) < 0.3


def test_where_nobody_speaks_nothing_is_recognised(nano: Recogniser) -> None:
    hiss = np.random.default_rng(0).normal(scale=1e-3, size=10 * RATE).astype(np.float32)
    broken = np.full(RATE, np.nan, np.float32)
    spy = Spy(nano)
    for blocks in ([], [silence(0)], [silence(20)], [np.ones(1, np.float32)], [hiss, broken]):
        assert updates(nano, blocks, decode=spy) == []
    assert spy.seconds == []


def test_what_is_not_finite_does_not_end_the_stream(nano: Recogniser, talk: np.ndarray) -> None:
    holes = np.concatenate([np.full(400, np.inf, np.float32), talk, np.full(99, np.nan, "f")])
    assert lines(updates(nano, [holes])) == list(SENTENCES)
    with pytest.raises(ConfigError, match=r"not int16 \[3\]"):
        nano.stream([np.zeros(3, np.int16)]).__next__()  # type: ignore[arg-type]


def test_a_line_can_be_ended_and_forgotten(nano: Recogniser, spoken: list[np.ndarray]) -> None:
    live = LiveTranscriber(nano.model, clock=None)
    live.feed(np.concatenate([spoken[0], silence(0.3)]))
    assert live.line_start == 0.0
    (ended,) = live.commit()
    assert (ended.final, ended.text, live.line_start) == (True, SENTENCES[0], None)
    live.feed(spoken[0])
    live.clear()
    live.feed(silence(0.1))
    found = live.feed(np.concatenate([spoken[1], silence(1.0)]))
    assert lines(found) == [SENTENCES[1]]
    assert live.finish() == live.commit() == []


def test_without_silero_loudness_tells_speech(talk: np.ndarray, spoken: list[np.ndarray]) -> None:
    noise = np.random.default_rng(0).normal(scale=3e-4, size=len(talk)).astype(np.float32)
    hear, size = Loudness(), 512
    found = [hear((talk + noise)[i : i + size]) for i in range(0, len(talk) - size, size)]
    begin, end = RATE // size + 1, (RATE + len(spoken[0])) // size
    assert np.mean(found[begin : end - 8]) > 0.6
    assert sum(found[:begin]) + sum(found[end + 1 : end + 1 + RATE // size]) <= 1


# -------------------------------------------------------------------------------- command line


def pcm(wave: np.ndarray) -> bytes:
    return (wave * 32767).astype("<i2").tobytes()


def test_a_pipe_may_break_off_within_a_sample() -> None:
    class Dripping(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(3)

    (wave,) = tones([0.1])
    found = np.concatenate(list(raw_pcm(Dripping(pcm(wave) + b"\x01"))))
    assert np.abs(found - wave).max() < 1e-4


def start(*options: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tiny_audio", "transcribe", "--live", "-", *options]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, bufsize=0
    )


@pytest.mark.slow
def test_on_a_terminal_a_line_is_redrawn_and_ctrl_c_finishes_it(spoken: list[np.ndarray]) -> None:
    terminal, inside = pty.openpty()
    process = start(stdout=inside)
    os.close(inside)
    assert process.stdin is not None
    process.stdin.write(pcm(np.concatenate([spoken[0], silence(1.0)])))
    process.stdin.write(pcm(np.concatenate([spoken[1], silence(0.4)])))
    said = b""
    while SENTENCES[1].encode() not in said:  # it has been heard, and is not complete
        said += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    with suppress(OSError):  # Linux's end of a terminal
        while more := os.read(terminal, 4096):
            said += more
    assert process.wait() == 0
    shown = said.decode().replace("\r\n", "\n").split("\r\x1b[K")
    complete = [line for line in shown if line.startswith("[") and line.endswith("\n")]
    assert complete[0].split("] ")[1].strip() == SENTENCES[0]
    assert complete[-1].split("] ")[1].strip() == SENTENCES[1]
    assert complete[0].startswith("[00:00:00.")
    redrawn = [line for line in shown if line not in complete]
    assert redrawn[-1] == ""
    assert any(line in SENTENCES[0] for line in redrawn if line)
    assert all(len(line) < 80 and "\n" not in line for line in redrawn)


@pytest.mark.slow
def test_json_has_every_update_and_a_reader_may_leave(talk: np.ndarray) -> None:
    process = start("--json")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(pcm(talk[: 4 * RATE]))
    first = json.loads(process.stdout.readline())
    assert set(first) == {"settled", "partial", "start", "end", "final", "text", "words"}
    process.stdout.close()
    with suppress(BrokenPipeError):
        process.stdin.write(pcm(talk))
        process.stdin.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() in (1, 141)


class SoundCard(ModuleType):
    """Stands for sounddevice: plays a recording into whoever opens it, and loses some."""

    PortAudioError = OSError

    def __init__(self, recording: np.ndarray) -> None:
        super().__init__("sounddevice")
        self.recording = recording

    def InputStream(self, rate: int, **options: Any) -> AbstractContextManager[None]:  # noqa: N802
        assert rate == RATE
        if options["device"] is not None:
            raise ValueError(f"No input device matching {options['device']!r}")
        for block in np.split(self.recording, range(512, len(self.recording), 512)):
            lost = SimpleNamespace(input_overflow=len(block) < 512)
            options["callback"](block[:, None], len(block), None, lost)
        return nullcontext()


def test_listen_writes_what_a_microphone_hears_until_ctrl_c(
    talk: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", SoundCard(talk))
    main, written = threading.get_ident(), io.StringIO()

    def interrupt() -> None:
        while SENTENCES[0] not in written.getvalue():
            time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    waiter = threading.Thread(target=interrupt, daemon=True)
    waiter.start()
    with redirect_stdout(written):
        assert cli.run(["listen", "--device", "cpu"]) == 0
    assert [line.split("] ")[1] for line in written.getvalue().splitlines()] == list(SENTENCES)
    assert capsys.readouterr().err == "The sound card lost audio 1 times.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["listen"], "pip install '.[live]'"),
        (["listen", "--list-devices"], "pip install '.[live]'"),
        (["transcribe", "--live", "talk.wav"], "give - and no file"),
        (["transcribe", "--live", "-", "--beams", "3", "--json"], "--live: leave out --beams."),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_microphone_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", SoundCard(silence(1)))
    assert cli.run(["listen", "--input", "Nonsense"]) == 2
    assert "--input Nonsense: no such microphone (No input device" in capsys.readouterr().err
