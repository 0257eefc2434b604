"""From a prefill to text: greedy and sampled decoding here, beam search through transformers.

A row's text depends on its own audio alone: rows stop at their own end token or at a cap in
proportion to their own length, and rows that are done leave the batch. What is remembered between
two tokens is in model/kv_cache.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError
from tiny_audio.model.batch import Batch
from tiny_audio.model.decoder import end_ids
from tiny_audio.model.kv_cache import remember

if TYPE_CHECKING:
    from tiny_audio.model.speech import SpeechModel


@dataclass(frozen=True)
class Hypothesis:
    """What was decoded for one utterance."""

    text: str
    token_ids: list[int]  # without the end token
    logprob: float | None  # mean over tokens, the end token included; None for beam search
    finished: bool  # False where the cap on new tokens cut it off


@dataclass(frozen=True)
class _Step:
    """One decoded token for each row that was still active."""

    rows: list[int]
    tokens: list[int]
    logprobs: Tensor  # [R] of all rows that are held; they stay on the device until the end
    held: list[int]  # which of them belong to `rows`


def generate(model: SpeechModel, batch: Batch, options: GenerationConfig) -> list[Hypothesis]:
    """Decode a left-padded batch of B utterances into B hypotheses, in order."""
    _check(options)
    if options.num_beams > 1:
        return _beam_search(model, batch, options)
    ends = set(end_ids(model.causal_lm, model.prompt.end_id))
    tokens: list[list[int]] = [[] for _ in range(len(batch))]
    logprobs: list[list[float]] = [[] for _ in range(len(batch))]
    steps = list(_decode(model, batch, options, ends))
    scores = iter(torch.cat([step.logprobs for step in steps]).tolist())
    for step in steps:
        of_held = list(islice(scores, len(step.logprobs)))
        for row, token, place in zip(step.rows, step.tokens, step.held, strict=True):
            tokens[row].append(token)
            logprobs[row].append(of_held[place])
    return [
        _hypothesis(model, ids, ends, sum(of_row) / len(of_row) if of_row else None)
        for ids, of_row in zip(tokens, logprobs, strict=True)
    ]


def stream(model: SpeechModel, batch: Batch, options: GenerationConfig) -> Iterator[str]:
    """Decode a batch of one and yield its text in pieces; joined they are ``generate``'s text."""
    if len(batch) != 1:
        raise ValueError(f"streaming decodes one utterance at a time, not {len(batch)}")
    _check(options)
    if options.num_beams > 1:
        raise ConfigError("streaming cannot look back, so it has no beams; use num_beams=1")
    ends = set(end_ids(model.causal_lm, model.prompt.end_id))
    ids: list[int] = []
    shown = ""
    for step in _decode(model, batch, options, ends):
        ids += step.tokens
        text = _hypothesis(model, ids, ends, None).text
        # A character of several bytes is a replacement mark until its last byte is there.
        if text.startswith(shown) and len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    text = _hypothesis(model, ids, ends, None).text
    if len(text) > len(shown):
        yield text[len(shown) :]


def _check(options: GenerationConfig) -> None:
    if options.num_beams < 1:
        raise ConfigError(f"num_beams: must be 1 or more, not {options.num_beams}")
    if options.do_sample and not (options.temperature > 0 and 0 < options.top_p <= 1):
        raise ConfigError(
            f"sampling needs temperature > 0 and 0 < top_p <= 1, not {options.temperature} and "
            f"{options.top_p}"
        )


def _caps(batch: Batch, options: GenerationConfig) -> list[int]:
    """The most new tokens of each row: in proportion to its audio, never below min_tokens."""
    seconds = [length / 16_000 for length in batch.waveform_lengths.tolist()]
    return [max(options.min_tokens, math.ceil(s * options.tokens_per_second)) for s in seconds]


def _decode(
    model: SpeechModel, batch: Batch, options: GenerationConfig, ends: set[int]
) -> Iterator[_Step]:
    """Decode token by token; rows leave at their end token or cap.

    A row that is done is dropped once that pays; until then it is decoded on and nobody looks.
    """
    memory = remember(model.causal_lm, model.prefill(batch), graphs=options.cuda_graphs)
    caps = _caps(batch, options)
    rows: list[int | None] = list(range(len(batch)))  # of each place that is held; None: done
    logits = memory.first()
    count = 0
    while True:
        chosen, logprobs = _choose(logits.float(), options)  # [R], [R]
        count += 1
        ids = chosen.tolist()
        active = [(place, row) for place, row in enumerate(rows) if row is not None]
        held = [place for place, _ in active]
        yield _Step([row for _, row in active], [ids[place] for place in held], logprobs, held)
        for place, row in active:
            if ids[place] in ends or count >= caps[row]:
                rows[place] = None
        live = [place for place, row in enumerate(rows) if row is not None]
        if not live:
            return
        if len(live) < len(rows) and memory.worth(len(live), len(rows)):
            keep = torch.tensor(live, device=chosen.device)
            memory.keep(keep)
            rows, chosen = [rows[place] for place in live], chosen[keep]
        logits = memory.next(chosen)


def _choose(logits: Tensor, options: GenerationConfig) -> tuple[Tensor, Tensor]:
    """Pick a token for each row of logits [R, V]; returns ids [R] and log-probabilities [R]."""
    if not options.do_sample:
        best, ids = logits.max(dim=-1)
        return ids, best - logits.logsumexp(dim=-1)
    probs = (logits / options.temperature).softmax(dim=-1)
    ordered, order = probs.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= options.top_p  # the first is always inside
    ordered = ordered.masked_fill(outside, 0.0)
    ids = order.gather(1, torch.multinomial(ordered, 1)).squeeze(1)
    return ids, logits.log_softmax(dim=-1).gather(1, ids.unsqueeze(1)).squeeze(1)


def _beam_search(model: SpeechModel, batch: Batch, options: GenerationConfig) -> list[Hypothesis]:
    ends = end_ids(model.causal_lm, model.prompt.end_id)
    prefill = model.prefill(batch)
    caps = _caps(batch, options)
    lm: Any = model.causal_lm
    out = lm.generate(
        inputs_embeds=prefill.inputs_embeds,
        attention_mask=prefill.attention_mask,
        max_new_tokens=max(caps),
        num_beams=options.num_beams,
        do_sample=options.do_sample,
        temperature=options.temperature if options.do_sample else None,
        top_p=options.top_p if options.do_sample else None,
        top_k=None,
        eos_token_id=ends,
        pad_token_id=model.prompt.end_id,
    )
    return [
        _hypothesis(model, ids[:cap], set(ends), None)
        for ids, cap in zip(out.tolist(), caps, strict=True)
    ]


def _hypothesis(
    model: SpeechModel, ids: list[int], ends: set[int], logprob: float | None
) -> Hypothesis:
    """Cut at the first end token and turn ids into text."""
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text = model.tokenizer.decode(ids[:stop], skip_special_tokens=True)
    return Hypothesis(str(text).strip(), ids[:stop], logprob, stop < len(ids))
