"""Utterances become batches: cut by length to a budget of seconds, then padded side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.data.records import Utterance
from tiny_audio.model.batch import IGNORE, Batch, label_positions

if TYPE_CHECKING:
    from tiny_audio.text.prompt import Prompt

# Relative noise on lengths that are sorted, so that a small set does not make the same batches on
# every pass. Costs about 1 % more padding.
JITTER = 0.02


def length_batches(
    utterances: Sequence[Utterance],
    *,
    batch_seconds: float,
    max_utterances: int,
    rng: np.random.Generator | None = None,
) -> list[list[Utterance]]:
    """Cut a pool into batches of like lengths: longest x count <= batch_seconds in each.

    With `rng` they are random in content and order; without, they come longest first. An utterance
    over the budget is a batch of its own.
    """
    seconds = np.array([utterance.seconds for utterance in utterances])
    keys = seconds if rng is None else seconds * rng.uniform(1 - JITTER, 1 + JITTER, len(seconds))
    order = np.argsort(-keys, kind="stable")
    if rng is not None and rng.random() < 0.5:  # the last batch, cut short, is not always the same
        order = order[::-1]
    batches: list[list[Utterance]] = []
    longest = 0.0
    for index in order:
        longest = max(longest, seconds[index])
        full = batches and len(batches[-1]) >= max_utterances
        if not batches or full or longest * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
            longest = seconds[index]
        batches[-1].append(utterances[index])
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def collate(
    utterances: Sequence[Utterance],
    prompt: Prompt,
    audio_tokens: Callable[[int], int],
    *,
    with_labels: bool,
) -> Batch:
    """Pad utterances side by side; one that yields no audio token is a ValueError.

    With labels: prompt, transcript and end token, padded on the right. Without, for generation:
    the prompt alone, padded on the left. `audio_tokens` maps samples to tokens.
    """
    lengths = [len(utterance.waveform) for utterance in utterances]
    counts = [audio_tokens(length) for length in lengths]
    if with_labels:
        pairs = zip(counts, utterances, strict=True)
        rows = [prompt.training(n_audio, utterance.text) for n_audio, utterance in pairs]
    else:
        rows = [(prompt.build(n_audio), 0) for n_audio in counts]
    pad = partial(pad_sequence, batch_first=True, padding_side="right" if with_labels else "left")
    ids = [torch.tensor(row) for row, _ in rows]
    audio = [torch.zeros(len(row), dtype=torch.bool) for row in ids]
    for mask, n_audio in zip(audio, counts, strict=True):
        mask[slice(*prompt.audio_span(n_audio))] = True
    learned = [torch.tensor([IGNORE] * n_prompt + row[n_prompt:]) for row, n_prompt in rows]
    labels = pad(learned, padding_value=IGNORE) if with_labels else None
    return Batch(
        waveform=pad_sequence([torch.from_numpy(u.waveform) for u in utterances], batch_first=True),
        waveform_lengths=torch.tensor(lengths),
        input_ids=pad(ids, padding_value=prompt.end_id),
        attention_mask=pad([torch.ones_like(row) for row in ids]),
        audio_mask=pad(audio),
        labels=labels,
        label_positions=None if labels is None else label_positions(labels),
        ids=[utterance.id for utterance in utterances],
        texts=[utterance.text for utterance in utterances],
    )
