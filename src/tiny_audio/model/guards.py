"""Guards against invented text: what counts as a loop, as no speech, as a text to be tried again.

Names and rules are Whisper's (github.com/openai/whisper, transcribe.py) but for loops, which are
told from true repeats by what the decoder looks at: who says a word again says it later.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tiny_audio.config import GenerationConfig

LONGEST = 40  # tokens of a phrase that may loop
SUSPICIOUS = 4  # tokens in a row that repeat those before them
TOKEN_SECONDS = 0.04  # no speech has more than 25 tokens a second


@dataclass(frozen=True)
class Hypothesis:
    """What was decoded for one utterance."""

    text: str
    token_ids: list[int]  # without the end token
    logprob: float | None  # mean over tokens, the end token included; None for beam search
    finished: bool  # False where the cap on new tokens cut it off
    logprobs: Sequence[float] = ()  # of each token, the end token included
    attention: Tensor | None = None  # [N, A] from each of those to the audio tokens, if asked for
    no_speech_prob: float | None = None  # that it ends before it begins; None for beam search
    temperature: float = 0.0  # at which it was sampled; 0: it was not


class Repeats:
    """How long the end of one growing text has repeated itself, for every period."""

    def __init__(self) -> None:
        self._runs: dict[int, int] = {}  # by period: tokens that equal the one a period before

    def add(self, ids: Sequence[int]) -> None:
        """The text has one token more."""
        last, runs = ids[-1], self._runs
        periods = range(1, min(LONGEST, len(ids) - 1) + 1)
        self._runs = {p: runs.get(p, 0) + 1 for p in periods if ids[-1 - p] == last}

    @property
    def suspicious(self) -> bool:
        """Whether it may be a loop, so that it matters what the decoder looks at from now on."""
        return any(run >= SUSPICIOUS for run in self._runs.values())

    @property
    def unsettled(self) -> int:
        """Tokens at the end that may turn out to be a loop."""
        return max(self._runs.values(), default=0)

    def looped(self, positions: Sequence[float], seconds: float) -> int:
        """Tokens at the end that are a loop, 0 where it is none: whole periods, of which the audio
        has no new part. ``positions`` of tokens in audio tokens of so many seconds."""
        for period, run in self._runs.items():
            width = period * math.ceil(3 / period)
            if run < SUSPICIOUS + 2 * width:
                continue
            advance = sum(positions[-width:]) - sum(positions[-2 * width : -width])
            if advance * seconds < width * width * TOKEN_SECONDS:
                return width
        return 0


def compression_ratio(text: str) -> float:
    """Bytes of a text over those of its zlib compression: high where it repeats itself."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))


def is_silent(found: Hypothesis, options: GenerationConfig) -> bool:
    """Whether a text is to be taken for an invention about a clip without speech."""
    if options.no_speech_threshold is None or found.no_speech_prob is None:
        return False
    sure = options.logprob_threshold is not None and _at_least(found, options.logprob_threshold)
    return found.no_speech_prob > options.no_speech_threshold and not sure


def needs_fallback(found: Hypothesis, options: GenerationConfig) -> bool:
    """Whether a text is to be sampled again at a higher temperature."""
    if is_silent(found, options):
        return False
    unsure = options.logprob_threshold is not None and not _at_least(
        found, options.logprob_threshold
    )
    return unsure or repetitive(found, options) or not found.finished


def repetitive(found: Hypothesis, options: GenerationConfig) -> bool:
    """Whether a text repeats itself more than a text does."""
    most = options.compression_ratio_threshold
    return most is not None and compression_ratio(found.text) > most


def best(tried: Sequence[Hypothesis], options: GenerationConfig) -> Hypothesis:
    """The last of several tries where it will do, otherwise the likeliest of those that do not
    repeat themselves, as in faster-whisper."""
    if not needs_fallback(tried[-1], options):
        return tried[-1]
    varied = [one for one in tried if not repetitive(one, options)]
    return max(varied or tried, key=lambda one: one.logprob or -math.inf)


def _at_least(found: Hypothesis, logprob: float) -> bool:
    return found.logprob is None or found.logprob >= logprob
