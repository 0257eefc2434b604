"""What guards and hot words do: words invented for what is no speech, and names found."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from tests.conftest import DATA

import tiny_audio
from bench.common import print_rows
from tiny_audio.audio.io import load_audio
from tiny_audio.data.grammar import sentences
from tiny_audio.data.synthetic import Synthesiser, draw_voice, synthetic_utterances
from tiny_audio.evaluate.wer import score
from tiny_audio.infer.transcribe import Transcript
from tiny_audio.infer.vad import speech_probabilities
from tiny_audio.model.guards import compression_ratio
from tiny_audio.text.scoring import get_rule

SAMPLES = 12 * 16_000
TIME = np.arange(SAMPLES) / 16_000
OFF = {"stop_loops": False, "no_speech_threshold": None}
SETTINGS = {
    "off": OFF,
    "loops": {**OFF, "stop_loops": True},
    "default": {},
    "and fallback": {"temperature_increment_on_fallback": 0.2},
}
NAMES = (
    "Kroman Delacroix Brunhilde Okonkwo Szymanski Thibault Yamamoto Fitzgibbon Wojtyla Mbappe "
    "Quintero Haraldsson Ferrante Oyelaran Bhattacharya Tuvalo Zanzotto Pellegrino Abernathy "
    "Kowalczyk"
).split()
NAMING = (
    "call {} tomorrow", "please send the letter to {}", "mister {} opened the window",
    "the doctor told {} the answer", "i met {} at the station", "have you seen {} today",
)  # fmt: skip


def _silence(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=SAMPLES) * rng.choice([0, 1e-5, 1e-3])


def _white(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=SAMPLES) * rng.uniform(0.003, 0.3)


def _pink(rng: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(rng.normal(size=SAMPLES))
    wave = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), SAMPLES)
    return wave / np.abs(wave).max() * rng.uniform(0.03, 0.9)


def _melody(rng: np.random.Generator) -> np.ndarray:
    """Plucked notes, four a second."""
    pitch = np.repeat(220 * 2 ** (rng.integers(0, 24, SAMPLES // 4000) / 12), 4000)
    since = np.tile(TIME[:4000], SAMPLES // 4000)
    notes = sum(np.sin(2 * np.pi * pitch * n * since) / n for n in (1, 2, 3, 4))
    return 0.2 * notes * np.exp(-4 * since)


def _glide(rng: np.random.Generator) -> np.ndarray:
    """A whistle that rises and falls."""
    swing = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 4) * TIME)
    return 0.3 * np.sin(2 * np.pi * np.cumsum(rng.uniform(200, 2000) * swing) / 16_000)


def _hum(rng: np.random.Generator) -> np.ndarray:
    """Voiced sounds of one vowel each, at random times: no words."""
    wave = np.zeros(SAMPLES)
    for _ in range(20):
        length, pitch = int(rng.integers(800, 5000)), rng.uniform(90, 300)
        begin = int(rng.integers(0, SAMPLES - length))
        formants = rng.uniform(300, 3000, 3)
        for n in range(1, 20):
            strength = np.exp(-(((pitch * n - formants) / 150) ** 2)).sum()
            tone = np.sin(2 * np.pi * pitch * n * TIME[:length])
            wave[begin : begin + length] += strength * tone * np.hanning(length)
    return wave / np.abs(wave).max() / 2


MADE: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "silence": _silence, "white noise": _white, "pink noise": _pink, "melodies": _melody,
    "glides": _glide, "vowels, no words": _hum,
}  # fmt: skip


def sounds(count: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Sounds without words by kind: made here, and those of the shared data, if it is there."""
    for name, make in MADE.items():
        rng = np.random.default_rng(1)
        yield name, [make(rng).astype(np.float32) for _ in range(count)]
    if not DATA.is_dir():
        return
    rows = map(json.loads, (DATA / "noise" / "manifest.jsonl").read_text().splitlines())
    files = [(row["kind"], load_audio(DATA / "noise" / row["audio_filepath"])) for row in rows]
    yield "background noises", [wave for kind, wave in files if kind == "noise"]
    yield "human sounds", [wave for kind, wave in files if kind == "nonspeech_human"]


def _loops(found: Sequence[Transcript]) -> int:
    texts = [segment.text for t in found for segment in t.segments]
    return sum(compression_ratio(text) > 2.4 for text in texts)


def run(count: int = 8, spoken: int = 200) -> bool:
    """Print words a minute and loops of the bundled recogniser with and without guards, what tells
    speech from other sounds, and WER and time; returns whether WER stays within 0.2 points."""
    nano, rule = tiny_audio.load("nano", device="cpu"), get_rule("whisper-en")
    print("\n### guards: words a minute and (loops) for sounds without words\n")
    print_rows(["sounds", *SETTINGS], ["---", *["---:"] * len(SETTINGS)])
    telling = []
    for name, waves in sounds(count):
        cells = []
        for options in SETTINGS.values():
            found = nano.transcribe(waves, **options)
            words = sum(len(t.text.split()) for t in found)
            cells.append(f"{60 * words / sum(t.seconds for t in found):.1f} ({_loops(found)})")
        print_rows([name, *cells])
        telling.append((name, waves))
    made = list(islice(synthetic_utterances("test", seed=4), spoken))
    sets = {"synthetic": ([u.waveform for u in made], [u.text for u in made])}
    if DATA.is_dir():
        lines = (DATA / "speech_test" / "manifest.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        real = [load_audio(DATA / "speech_test" / row["audio_filepath"]) for row in rows]
        sets["real"] = (real, [row["text"] for row in rows])
    print("\n### guards: WER and time\n")
    print_rows(["speech", *SETTINGS], ["---", *["---:"] * len(SETTINGS)])
    held = True
    for name, (waves, texts) in sets.items():
        rates, cost = [], []
        for options in SETTINGS.values():
            start = time.process_time()
            found = nano.transcribe(waves, **options)
            cost.append(time.process_time() - start)
            rates.append(score(texts, [t.text for t in found], rule).words.rate or 0.0)
        held &= abs(rates[2] - rates[0]) <= 0.002
        both = zip(rates, cost, strict=True)
        print_rows([name, *(f"{rate:.1%}, {spent / cost[0]:.2f} x" for rate, spent in both)])
        telling.append((name, waves[:40]))
    print("\n### guards: what tells speech, 10, 50 and 90 % of the clips\n")
    print_rows(
        ["clips", "end at once", "logprob", "loudest dBFS", "silero"], ["---", *["---:"] * 4]
    )
    for name, waves in telling:
        segments = [s for t in nano.transcribe(waves, **OFF) for s in t.segments]
        loud = [20 * np.log10(np.sqrt(np.square(w).mean()) + 1e-9) for w in waves]
        known = [[s.no_speech_prob for s in segments], [s.logprob for s in segments], loud]
        known.append([float(speech_probabilities(w).max()) for w in waves])
        cells = ["  ".join(f"{x:.2f}" for x in np.quantile(k, [0.1, 0.5, 0.9])) for k in known]
        print_rows([name, *cells])
    return held


def run_hotwords(count: int = 120) -> bool:
    """Print how many rare names are found with and without hot words, and what it costs others;
    returns whether WER without names stays within 0.3 points at the default boost."""
    speak, rng = Synthesiser(), random.Random(3)
    named = [(n, rng.choice(NAMING).format(n)) for n in map(str.lower, NAMES) for _ in range(4)]
    plain = list(islice(sentences(99, "test"), count))
    spoken = [speak(t, draw_voice(rng, "test")) for t in [*(t for _, t in named), *plain]]
    nano, rule = tiny_audio.load("nano", device="cpu"), get_rule("whisper-en")
    print(f"\n### hotwords: {len(NAMES)} names in {len(named)} sentences, {count} without\n")
    heads = ["boost", "recall", "wrong names", "WER with names", "in others", "WER of others"]
    print_rows(heads, ["---:"] * len(heads))
    hot, rates = {name.lower() for name in NAMES}, []
    for boost in (None, 2.0, 4.0, 5.0):
        asked = {} if boost is None else {"hotwords": NAMES, "hotwords_boost": boost}
        texts = [t.text for t in nano.transcribe(spoken, **asked)]
        first, rest = texts[: len(named)], texts[len(named) :]
        pairs = [(name, text.split()) for (name, _), text in zip(named, first, strict=True)]
        right = sum(name in words for name, words in pairs) / len(pairs)
        wrong = sum(len(hot & {*words} - {name}) for name, words in pairs)
        rates.append(score(plain, rest, rule).words.rate or 0.0)
        of_named = score([text for _, text in named], first, rule).words.rate or 0.0
        false = sum(word in hot for text in rest for word in text.split())
        label = "none" if boost is None else f"{boost:g}"
        cells = [f"{right:.1%}", str(wrong), f"{of_named:.1%}", str(false), f"{rates[-1]:.2%}"]
        print_rows([label, *cells])
    return abs(rates[2] - rates[0]) <= 0.003
