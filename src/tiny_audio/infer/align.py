"""Word times: which stretch of the audio each word was written from.

The decoder looks at the audio token that it is writing down. Its attention from every written token
to the audio (model/attention.py) is a matrix with a bright, rising line; dynamic time warping finds
it, as in Whisper's word times (github.com/openai/whisper, timing.py). Nothing is trained for it.

Shapes: N text tokens and the end token, A audio tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.model.batch import Batch
from tiny_audio.model.generate import Hypothesis
from tiny_audio.model.speech import SpeechModel

_HOP = SAMPLE_RATE // 100
_LOUD_DB = -40.0  # of a hop of 10 ms, less than the clip's loud parts: silence
_PAUSE = 30  # hops of silence that divide words


@dataclass(frozen=True)
class Word:
    """A word of a transcript; times in seconds from the recording's beginning."""

    text: str
    start: float
    end: float
    probability: float  # geometric mean over its tokens

    def later(self, seconds: float) -> Word:
        """The same word of a recording that begins so much earlier."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


def align(model: SpeechModel, batch: Batch, hypotheses: Sequence[Hypothesis]) -> list[list[Word]]:
    """Times of every word of hypotheses with attention, from the beginning of each clip.

    Words come in order, inside the clip, without overlap; as many as ``text.split()`` has.
    """
    found = []
    for row, hypothesis in enumerate(hypotheses):
        assert hypothesis.attention is not None
        n_audio, samples = int(batch.audio_mask[row].sum()), int(batch.waveform_lengths[row])
        starts = path_starts(hypothesis.attention[:, -n_audio:].numpy())
        if not hypothesis.finished:  # the last token goes on to the end
            starts = np.append(starts, n_audio)
        seconds = np.minimum(starts * model.audio_token_seconds, samples / SAMPLE_RATE)
        waveform = batch.waveform[row, :samples].float().cpu().numpy()
        found.append(_words(model, hypothesis, seconds, waveform))
    return found


def path_starts(attention: np.ndarray) -> np.ndarray:
    """First audio token [N] of each token, by dynamic time warping of attention [N, A]."""
    share = attention / (attention.sum(-1, keepdims=True) + 1e-9)
    share = (share - share.mean(0)) / (share.std(0) + 1e-9)
    cost = -share.round(3).astype(np.float64)
    best = np.full((len(cost) + 1, cost.shape[1] + 1), np.inf)
    best[0, 0] = 0.0
    for i, row in enumerate(cost, 1):
        total = row.cumsum()
        entry = np.minimum(best[i - 1, :-1], best[i - 1, 1:])  # from the token before
        best[i, 1:] = total + np.minimum.accumulate(entry - (total - row))
    starts = np.zeros(len(cost), dtype=np.int64)
    i, j = len(cost), cost.shape[1]
    while i > 0:
        starts[i - 1] = j - 1
        step = int(np.argmin([best[i - 1, j - 1], best[i - 1, j], best[i, j - 1]]))
        i, j = i - (step < 2), j - (step != 1)
    return starts


def _words(
    model: SpeechModel, hypothesis: Hypothesis, starts: np.ndarray, waveform: np.ndarray
) -> list[Word]:
    """Put tokens together into words; ``starts`` [N + 1] in seconds."""
    ids, texts = hypothesis.token_ids, hypothesis.text.split()
    if not texts:
        return []
    begun = [
        len(str(model.tokenizer.decode(ids[: i + 1], skip_special_tokens=True)).split())
        for i in range(len(ids))
    ]
    first = [next(i for i, n in enumerate(begun) if n > word) for word in range(len(texts))]
    words = []
    loud = _loud_hops(waveform)
    for text, i, after in zip(texts, first, [*first[1:], len(ids)], strict=True):
        after = max(after, i + 1)  # two words of one token share its time
        start, end = _trim_silence(loud, float(starts[i]), float(starts[after]))
        logprobs = hypothesis.logprobs[i:after]
        words.append(Word(text, start, end, math.exp(sum(logprobs) / len(logprobs))))
    return words


def _loud_hops(waveform: np.ndarray) -> np.ndarray:
    """The hops of a waveform [S] that are not silence."""
    hops = waveform[: len(waveform) // _HOP * _HOP].reshape(-1, _HOP)
    level = np.square(hops).mean(1)
    return np.flatnonzero(level > np.quantile(level, 0.95) * 10 ** (_LOUD_DB / 10))


def _trim_silence(loud: np.ndarray, start: float, end: float) -> tuple[float, float]:
    """Leave out silence at both ends of a word; of what a pause divides, keep the longer part."""
    loud = loud[np.searchsorted(loud, int(start * 100)) : np.searchsorted(loud, int(end * 100))]
    if not len(loud):
        return start, end
    part = max(np.split(loud, np.flatnonzero(np.diff(loud) >= _PAUSE) + 1), key=len)
    return max(start, part[0] / 100), min(end, (part[-1] + 1) / 100)
