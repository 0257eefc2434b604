"""How right word times are: against the times at which espeak-ng spoke, and what they cost."""

from __future__ import annotations

import random
import time

import numpy as np

import tiny_audio
from bench.common import print_rows
from tiny_audio.data.grammar import sentences
from tiny_audio.data.synthetic import Synthesiser, draw_voice
from tiny_audio.infer.transcribe import Transcript

SENTENCES, SEED = 200, 777


def run(count: int = SENTENCES) -> bool:
    """Print errors of word starts of the bundled recogniser on unseen sentences and voices, where
    the text is right, and the time that word times take; returns whether all words have one."""
    speak, rng = Synthesiser(), random.Random(SEED)
    texts = [text for text, _ in zip(sentences(SEED, "test"), range(count), strict=False)]
    spoken = [speak.timed(text, draw_voice(rng, "test")) for text in texts]
    waves = [wave for wave, _ in spoken]
    nano = tiny_audio.load("nano", device="cpu")
    nano.transcribe(waves[:8], word_timestamps=True)  # warm
    seconds = {False: 0.0, True: 0.0}
    found: list[Transcript] = []
    for asked in (False, True, False, True):
        start = time.perf_counter()
        found = nano.transcribe(waves, word_timestamps=asked)
        seconds[asked] += time.perf_counter() - start
    errors, complete = [], True
    for text, (_, begins), transcript in zip(texts, spoken, found, strict=True):
        words = [word for segment in transcript.segments for word in segment.words]
        complete &= len(words) == len(transcript.text.split())
        if transcript.text == text and len(words) == len(begins):
            errors += [abs(w.start - b) for w, b in zip(words, begins, strict=True)]
    print(f"\n### words: times against espeak-ng's, {len(errors)} words\n")
    print_rows(["median", "95 %", "largest", "cost"], ["---:"] * 4)
    middle, most = np.quantile(errors, [0.5, 0.95])
    cost = seconds[True] / seconds[False] - 1
    print_rows([f"{1000 * x:.0f} ms" for x in (middle, most, max(errors))] + [f"{cost:+.0%}"])
    return complete
