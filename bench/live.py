"""Live audio: how soon words show and settle, how right they are, what that and an hour cost."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import islice

import jiwer
import numpy as np
import psutil

import tiny_audio
from bench.common import print_rows
from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.data.grammar import sentences
from tiny_audio.data.synthetic import Synthesiser, draw_voice
from tiny_audio.infer.live import LiveTranscriber, LiveUpdate
from tiny_audio.infer.transcribe import Recogniser

SENTENCES, SEED = 80, 777
PAUSES = (0.3, 0.8, 2.0)  # seconds between sentences, one of them
BLOCK = 1600  # samples that come at once, 100 ms
HOUR, GROWTH = 3600, 32 << 20  # seconds; bytes that an hour may take


@dataclass
class Clock:
    """Seconds since it was made; simulated, nobody waits, but work takes the time that it takes."""

    simulated: bool
    start: float = field(default_factory=time.perf_counter)
    skipped: float = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.start + self.skipped

    def wait(self, until: float) -> None:
        missing = max(0.0, until - self.now())
        if self.simulated:
            self.skipped += missing
        else:
            time.sleep(missing)


@dataclass(frozen=True)
class Spoken:
    """A word and when; of one that was recognised also when it was seen."""

    text: str
    start: float
    end: float
    shown: float = 0.0
    settled: float = 0.0


def speech(count: int) -> tuple[np.ndarray, list[Spoken]]:
    """Unseen sentences in unseen voices with pauses, and when each word was spoken."""
    speak, rng = Synthesiser(), random.Random(SEED)
    parts, words, samples = [], [], 0
    for text in islice(sentences(SEED, "test"), count):
        wave, begins = speak.timed(text, draw_voice(rng, "test"))
        ends = [*begins[1:], np.flatnonzero(np.abs(wave) > 0.01)[-1] / SAMPLE_RATE]
        offset = samples / SAMPLE_RATE
        for word, begin, end in zip(text.split(), begins, ends, strict=True):
            words.append(Spoken(word, offset + begin, offset + end))
        pause = np.zeros(int(rng.choice(PAUSES) * SAMPLE_RATE), np.float32)
        parts += [wave, pause]
        samples += len(wave) + len(pause)
    return np.concatenate(parts), words


def stream(
    live: LiveTranscriber, audio: np.ndarray, clock: Clock
) -> list[tuple[float, LiveUpdate]]:
    """Feed audio [S] as it comes by the clock; every update and when it came."""
    found, position = [], 0
    while position < len(audio):
        clock.wait((position + BLOCK) / SAMPLE_RATE)
        arrived = int(clock.now() * SAMPLE_RATE) // BLOCK * BLOCK
        updates = live.feed(audio[position:arrived])
        found += [(clock.now(), update) for update in updates]
        position = arrived
    return found + [(clock.now(), update) for update in live.finish()]


def seen(updates: list[tuple[float, LiveUpdate]]) -> list[Spoken]:
    """Every word of the complete lines, when it first stood at its place and when it settled."""
    found: list[Spoken] = []
    line: list[tuple[float, list[str], int]] = []
    for when, update in updates:
        line.append((when, f"{update.text} {update.partial}".split(), len(update.text.split())))
        if update.final:
            for k, word in enumerate(update.words):
                shown = next(t for t, words, _ in line if words[k : k + 1] == [word.text])
                settled = next(t for t, _, count in line if count > k)
                found.append(Spoken(word.text, word.start, word.end, shown, settled))
            line = []
    return found


def run(simulated: bool = False, count: int = SENTENCES, hour: int = HOUR) -> bool:
    """Print latencies, word error rates and cost of the bundled recogniser on speech that comes in
    real time; returns whether memory stays flat over an hour."""
    audio, truth = speech(count)
    nano = tiny_audio.load("nano", device="cpu")
    reference = " ".join(word.text for word in truth)
    nano.transcribe(audio[: 10 * SAMPLE_RATE], word_timestamps=True)  # warm
    offline = jiwer.wer(reference, nano.transcribe(audio).text)
    live, work = LiveTranscriber(nano.model), time.process_time()
    updates = stream(live, audio, Clock(simulated))
    work = (time.process_time() - work) / live.seconds
    words = seen(updates)
    texts = [word.text for word in truth], [word.text for word in words]
    right = [
        (truth[block.a + i], words[block.b + i])
        for block in SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
        for i in range(block.size)
    ]
    right = [(said, word) for said, word in right if abs(said.start - word.start) < 1.0]
    kind = "a simulated clock" if simulated else "real time"
    print(f"\n### live: {live.seconds:.0f} s in {kind}, {len(right)} of {len(truth)} words right\n")
    print_rows(["from a word's end to", "median", "95 %"], ["---", "---:", "---:"])
    for name, delays in (
        ("its first showing", [word.shown - said.end for said, word in right]),
        ("its settling", [word.settled - said.end for said, word in right]),
    ):
        middle, most = np.quantile(delays, [0.5, 0.95])
        print_rows([name, f"{middle:.2f} s", f"{most:.2f} s"])
    wer = jiwer.wer(reference, " ".join(texts[1]))
    print(f"\nWER {wer:.2%}, offline {offline:.2%}: {wer / offline:.2f} x; of one core {work:.0%}")
    return memory(nano, audio, hour)


def memory(nano: Recogniser, audio: np.ndarray, seconds: int) -> bool:
    """Feed the audio over and over as fast as it goes; whether memory stays flat after a while."""
    live, process, start = LiveTranscriber(nano.model), psutil.Process(), time.perf_counter()
    held: list[int] = []
    block = 10 * SAMPLE_RATE
    while live.seconds < seconds:
        for first in range(0, len(audio), block):
            live.feed(audio[first : first + block])
        held.append(process.memory_info().rss)
    growth = held[-1] - held[len(held) // 4]
    took = time.perf_counter() - start
    print(
        f"\n{live.seconds:.0f} s in {took:.0f} s: {held[-1] / 2**20:.0f} MiB, "
        f"{growth / 2**20:+.0f} MiB in the last three quarters"
    )
    return growth < GROWTH
