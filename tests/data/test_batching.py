"""Batches: what is padded, what is learned, how little is wasted, how random they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.helpers import audio_tokens, noise
from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.model.batch import IGNORE
from tiny_audio.model.decoder import byte_tokenizer
from tiny_audio.text.prompt import Prompt

PROMPT = Prompt.from_tokenizer(byte_tokenizer())

clips = st.lists(st.tuples(st.floats(0.1, 2.0), st.text(max_size=30)), min_size=1, max_size=6).map(
    lambda drawn: [utterance(s, n, text) for n, (s, text) in enumerate(drawn)]
)


def utterance(seconds: float, n: int = 0, text: str = "hello") -> Utterance:
    return Utterance(f"u{n}", noise(seconds, n), text, "test")


def librispeech_like(count: int, rng: np.random.Generator) -> list[Utterance]:
    """Most clips of 12 to 17 s, a long tail of shorter ones, mean about 12 s."""
    long = rng.normal(14.5, 1.4, count)
    short = rng.uniform(1.5, 15.0, count)
    seconds = np.clip(np.where(rng.random(count) < 0.65, long, short), 1.3, 24.5)
    silence = np.zeros(25 * 16_000, dtype=np.float32)
    return [
        Utterance(f"u{n}", silence[: round(s * 16_000)], "", "test") for n, s in enumerate(seconds)
    ]


@settings(deadline=None, max_examples=15)
@given(clips)
def test_training_batch_holds_each_utterance_as_it_is_alone(utterances):
    batch = collate(utterances, PROMPT, audio_tokens, with_labels=True)
    for row, clip in enumerate(utterances):
        n_audio = audio_tokens(len(clip.waveform))
        ids, n_prompt = PROMPT.training(n_audio, clip.text)
        length, width = len(ids), batch.input_ids.shape[1]
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (width - length)
        assert batch.input_ids[row, :length].tolist() == ids
        assert (batch.input_ids[row, length:] == PROMPT.end_id).all()
        assert batch.audio_mask[row].sum() == n_audio
        assert (batch.input_ids[row][batch.audio_mask[row]] == PROMPT.placeholder_id).all()
        learned = batch.labels[row] != IGNORE
        assert batch.labels[row][learned].tolist() == ids[n_prompt:]
        assert learned.nonzero()[0] == n_prompt
        samples = int(batch.waveform_lengths[row])
        assert torch.equal(batch.waveform[row, :samples], torch.from_numpy(clip.waveform))
        assert not batch.waveform[row, samples:].any()
    assert batch.ids == [clip.id for clip in utterances]
    assert batch.texts == [clip.text for clip in utterances]


@settings(deadline=None, max_examples=15)
@given(clips)
def test_generation_batch_ends_with_the_prompt(utterances):
    batch = collate(utterances, PROMPT, audio_tokens, with_labels=False)
    assert batch.labels is None
    for row, clip in enumerate(utterances):
        prompt = PROMPT.build(audio_tokens(len(clip.waveform)))
        left = batch.input_ids.shape[1] - len(prompt)
        assert batch.input_ids[row, left:].tolist() == prompt
        assert batch.attention_mask[row].tolist() == [0] * left + [1] * len(prompt)
        assert (batch.input_ids[row][batch.audio_mask[row]] == PROMPT.placeholder_id).all()
        assert batch.audio_mask[row].sum() == audio_tokens(len(clip.waveform))


def test_an_utterance_without_audio_tokens_cannot_be_collated():
    with pytest.raises(ValueError, match="at least one audio token"):
        collate([utterance(0.01)], PROMPT, audio_tokens, with_labels=True)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(0.1, 8.0), min_size=1, max_size=60),
    st.floats(8.0, 40.0),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(0, 99)),
)
def test_batches_keep_to_the_budget_and_lose_nothing(seconds, budget, most, seed):
    utterances = [utterance(s, n) for n, s in enumerate([*seconds, budget + 1.0])]
    settings = {"batch_seconds": budget, "max_utterances": most}
    cuts = []
    for _ in range(2):
        rng = None if seed is None else np.random.default_rng(seed)
        cuts.append(length_batches(utterances, **settings, rng=rng))
    batches = cuts[0]
    assert batches == cuts[1]
    assert sorted(u.id for batch in batches for u in batch) == sorted(u.id for u in utterances)
    for batch in batches:
        assert 1 <= len(batch) <= most
        longest = max(u.seconds for u in batch)
        assert longest * len(batch) <= budget + 1e-9 or len(batch) == 1  # what is over it, alone
    if seed is None:
        longest_of = [max(u.seconds for u in batch) for batch in batches]
        assert longest_of == sorted(longest_of, reverse=True)


def test_little_padding_and_random_batches_at_once():
    """Pass after pass over one set of 2,048 few clips that shared a batch share one again."""
    clips = librispeech_like(2_048, np.random.default_rng(5))
    real = padded = 0.0
    met: list[set[tuple[str, str]]] = []
    for seed in range(3):
        rng, pairs = np.random.default_rng(seed), set()
        order = rng.permutation(len(clips))
        for first in range(0, len(clips), 512):
            pool = [clips[n] for n in order[first : first + 512]]
            batches = length_batches(pool, batch_seconds=120.0, max_utterances=64, rng=rng)
            for batch in batches:
                real += sum(u.seconds for u in batch)
                padded += max(u.seconds for u in batch) * len(batch)
                names = sorted(u.id for u in batch)
                pairs |= {(a, b) for n, a in enumerate(names) for b in names[n + 1 :]}
            means = [np.mean([u.seconds for u in batch]) for batch in batches]
            assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.9
        met.append(pairs)
    assert 1 - real / padded < 0.05
    for n in range(3):
        again = len(met[n] & met[n - 1]) / len(met[n])
        assert again < 0.15  # unsorted batches: 0.5 %; batches of always the same: 100 %
