"""From a prefill to text: greedy and sampled decoding here, beam search through transformers.

A row's text depends on its own audio alone: rows stop at their own end token or at a cap in
proportion to their own length, and rows that are done leave the batch.
Shapes: B utterances, R rows that are held, C positions of a fixed cache, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, StaticCache
from transformers.cache_utils import Cache, DynamicLayer

from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError, first_line
from tiny_audio.model.attention import OBSERVED, AudioAttention, observed
from tiny_audio.model.batch import Prefill

Run = Callable[[], Tensor]
Watch = Callable[[int, Sequence[int]], bool]

logger = logging.getLogger(__name__)

ROOM = 64  # new tokens that a fixed cache has positions for before it grows
EAGER_STEPS = 3  # of one shape before it is captured: capturing costs about as much


@dataclass(frozen=True)
class Hypothesis:
    """What was decoded for one utterance."""

    text: str
    token_ids: list[int]  # without the end token
    logprob: float | None  # mean over tokens, the end token included; None for beam search
    finished: bool  # False where the cap on new tokens cut it off
    logprobs: Sequence[float] = ()  # of each token, the end token included
    attention: Tensor | None = None  # [N, A] from each of those to the audio tokens, if asked for


class _Token(NamedTuple):
    """One more token of one utterance."""

    row: int
    id: int
    logprob: float
    attention: Tensor | None  # [A]


@dataclass(frozen=True)
class Decoding:
    """A left-padded batch of B utterances, who decodes it and how far."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: Sequence[int]  # of tokens that end an answer, that of padding first
    prefill: Prefill
    caps: list[int]  # the most new tokens of each row
    options: GenerationConfig
    audio_mask: Tensor | None = None  # [B, T] where hypotheses shall tell their attention to audio
    forced: Sequence[Sequence[int]] | None = None  # the tokens of each row, if they are known

    def __post_init__(self) -> None:
        options = self.options
        if options.num_beams < 1:
            raise ConfigError(f"num_beams: must be 1 or more, not {options.num_beams}")
        if options.do_sample and not (options.temperature > 0 and 0 < options.top_p <= 1):
            raise ConfigError(
                "sampling needs temperature > 0 and 0 < top_p <= 1, not "
                f"{options.temperature} and {options.top_p}"
            )

    def generate(self, watch: Watch | None = None) -> list[Hypothesis]:
        """Decode into B hypotheses, in order. ``watch`` is told a row and its tokens after each
        step (not by beam search); where it is False, the row is given up and ends there."""
        if self.options.num_beams > 1:
            found = self._beam_search()
            if self.audio_mask is None:
                return found
            ids = [[*one.token_ids, self.end_ids[0]] for one in found]
            return replace(self, options=GenerationConfig(), forced=ids).generate()
        tokens: list[list[_Token]] = [[] for _ in self.caps]
        for step in self._steps():
            for token in step:
                tokens[token.row].append(token)
                if watch and not watch(token.row, [t.id for t in tokens[token.row]]):
                    self.caps[token.row] = 0
        return [
            self._hypothesis(
                [t.id for t in own], [t.logprob for t in own], [t.attention for t in own]
            )
            for own in tokens
        ]

    def stream(self) -> Iterator[str]:
        """Decode a batch of one and yield its text in pieces; joined they are ``generate``'s."""
        if self.options.num_beams > 1:
            raise ConfigError("streaming cannot look back, so it has no beams; use num_beams=1")
        ids: list[int] = []
        shown = ""
        for step in self._steps():
            ids += [token.id for token in step]
            text = self._hypothesis(ids).text
            # A character of several bytes is a replacement mark until its last byte is there.
            if text.startswith(shown) and len(text) > len(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        if rest := self._hypothesis(ids).text[len(shown) :]:
            yield rest

    def _hypothesis(
        self,
        ids: list[int],
        logprobs: Sequence[float] = (),
        attention: Sequence[Tensor | None] = (),
    ) -> Hypothesis:
        """Cut at the first end token and turn ids into text."""
        stop = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        text = str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True)).strip()
        mean = sum(logprobs) / len(logprobs) if logprobs else None
        seen = [row for row in attention if row is not None]
        looked = torch.stack(seen) if seen else None
        return Hypothesis(text, ids[:stop], mean, stop < len(ids), logprobs, looked)

    def _steps(self) -> Iterator[list[_Token]]:
        """Decode token by token; yields the next one of each row that is not yet done. A row is
        done at its end token or cap and is dropped once that pays."""
        attention = None if self.audio_mask is None else AudioAttention(self.audio_mask)
        with nullcontext() if attention is None else observed(self.lm):
            yield from self._observed_steps(attention)

    def _observed_steps(self, attention: AudioAttention | None) -> Iterator[list[_Token]]:
        past = self._start(attention)
        rows: list[int | None] = list(range(len(self.caps)))  # of each that is held; None: done
        logits = past.first()
        for length in count(1):
            chosen, logprobs = self._choose(logits.float(), rows, length)  # [R], [R]
            ids, scores = chosen.tolist(), logprobs.tolist()
            looks = (
                [None] * len(rows)
                if attention is None
                else attention.weights.clone().cpu().unbind()
            )
            held = zip(rows, ids, scores, looks, strict=True)
            yield [_Token(row, *token) for row, *token in held if row is not None]
            for i, row in enumerate(rows):
                if row is not None and (ids[i] in self.end_ids or length >= self.caps[row]):
                    rows[i] = None
            live = [i for i, row in enumerate(rows) if row is not None]
            if not live:
                return
            if len(live) < len(rows) and len(live) <= past.worth_keeping * len(rows):
                keep = torch.tensor(live, device=chosen.device)
                past.keep(keep)
                rows, chosen = [rows[i] for i in live], chosen[keep]
            logits = past.next(chosen)

    def _choose(
        self, logits: Tensor, rows: Sequence[int | None], length: int
    ) -> tuple[Tensor, Tensor]:
        """The next token of each row, from logits [R, V]: ids [R] and log-probabilities [R]."""
        if self.forced is None:
            return _choose(logits, self.options)
        known = [self.forced[row or 0][length - 1 : length] or self.end_ids[:1] for row in rows]
        ids = torch.tensor([own[0] for own in known], device=logits.device)
        return ids, logits.log_softmax(dim=-1).gather(1, ids.unsqueeze(1)).squeeze(1)

    def _start(self, attention: AudioAttention | None) -> Growing:
        """The fastest way to decode; on CUDA a captured step, where that works."""
        cuda = self.prefill.inputs_embeds.is_cuda and not torch.is_autocast_enabled("cuda")
        if cuda and self.options.cuda_graphs and can_capture(self.lm):
            return Captured(self.lm, self.prefill, capture_cuda, attention)
        return Growing(self.lm, self.prefill, attention)

    def _beam_search(self) -> list[Hypothesis]:
        lm: Any = self.lm
        options, sample = self.options, self.options.do_sample
        out = lm.generate(
            inputs_embeds=self.prefill.inputs_embeds,
            attention_mask=self.prefill.attention_mask,
            max_new_tokens=max(self.caps),
            num_beams=options.num_beams,
            do_sample=sample,
            temperature=options.temperature if sample else None,
            top_p=options.top_p if sample else None,
            top_k=None,
            eos_token_id=list(self.end_ids),
            pad_token_id=self.end_ids[0],
        )
        capped = zip(out.tolist(), self.caps, strict=True)
        return [self._hypothesis(ids[:cap]) for ids, cap in capped]


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


def can_capture(lm: PreTrainedModel) -> bool:
    """Whether every layer attends to all that came before, through a kernel that takes a mask."""
    layers = DynamicCache(config=lm.config).layers
    plain = len(layers) > 0 and all(type(layer) is DynamicLayer for layer in layers)
    return plain and lm.config._attn_implementation in ("sdpa", OBSERVED)


class Growing:
    """Decode one token for every row that is held; keys and values are appended for each."""

    worth_keeping = 1.0  # rows are dropped where at most this share of them is left

    def __init__(
        self, lm: PreTrainedModel, prefill: Prefill, attention: AudioAttention | None = None
    ) -> None:
        self._lm, self._prefill, self._attention = lm, prefill, attention
        self._cache: Cache = DynamicCache(config=lm.config)
        self._mask = prefill.attention_mask
        self._positions = prefill.position_ids[:, -1:] + 1  # [R, 1] of the token that comes next

    def first(self) -> Tensor:
        """Read the prompt; logits [R, V] of the first new token."""
        # By index: the slice of logits_to_keep=1 is not contiguous, so that on a CPU its product
        # with the head would go row by row, in bfloat16 with a copy of the head for each.
        embeds, mask, positions = self._prefill
        last = torch.tensor([mask.shape[1] - 1], device=mask.device)
        return self._logits(mask, inputs_embeds=embeds, position_ids=positions, logits_to_keep=last)

    def next(self, tokens: Tensor) -> Tensor:
        """Read one token [R] for each row; logits [R, V] of the one after it, valid until the
        next call."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        logits = self._logits(
            self._mask, input_ids=tokens.unsqueeze(1), position_ids=self._positions
        )
        self._positions = self._positions + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, in this order (ascending)."""
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        if self._attention is not None:
            self._attention.keep(rows)

    def _logits(self, mask: Tensor, **kwargs: Any) -> Tensor:
        kwargs["attention_mask"] = mask
        if self._attention is not None:
            kwargs["audio_attention"] = self._attention
            self._attention.weights.zero_()
        out: Any = self._lm(**kwargs, past_key_values=self._cache, use_cache=True)
        return cast(Tensor, out.logits[:, -1])


class Captured(Growing):
    """The same in a cache of fixed size, so that a whole step can be captured and replayed. All its
    positions are read, those not yet filled are masked. ``capture`` runs a function of fixed inputs
    once and returns one that replays it."""

    worth_keeping = 0.5  # a new shape has to be captured anew

    def __init__(
        self,
        lm: PreTrainedModel,
        prefill: Prefill,
        capture: Callable[[Run], Run],
        attention: AudioAttention | None = None,
    ) -> None:
        super().__init__(lm, prefill, attention)
        self._capture = capture
        self._length = self._mask.shape[1]
        self._cache = StaticCache(lm.config, max_cache_len=self._length + ROOM)
        self._layers: list[Any] = list(self._cache.layers)
        self._mask = pad(self._mask.bool(), (0, ROOM))[:, None, None]  # [R, 1, 1, C]
        self._tokens = torch.zeros_like(self._positions)
        self._replay: Run = self._run
        self._count = 0  # steps of this shape

    def next(self, tokens: Tensor) -> Tensor:
        if self._length == self._mask.shape[-1]:
            self._grow()
        self._tokens.copy_(tokens.unsqueeze(1))
        self._mask[..., self._length] = True
        if self._count == EAGER_STEPS:
            self._replay = self._capture(self._run)
            for layer in self._layers:
                layer.cumulative_length.sub_(1)  # that run is made again
        self._count += 1
        logits = self._replay()
        self._length += 1
        self._positions.add_(1)
        return logits

    def keep(self, rows: Tensor) -> None:
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self._tokens, self._positions = self._tokens[rows], self._positions[rows]
        self._mask = self._mask[rows]
        if self._attention is not None:
            self._attention.keep(rows)
        self._new_shape()

    def _grow(self) -> None:
        for layer in self._layers:
            layer.keys = pad(layer.keys, (0, 0, 0, ROOM))
            layer.values = pad(layer.values, (0, 0, 0, ROOM))
            layer.max_cache_len += ROOM
        self._mask = pad(self._mask, (0, ROOM))
        self._new_shape()

    def _new_shape(self) -> None:
        self._replay, self._count = self._run, 0

    def _run(self) -> Tensor:
        return self._logits(self._mask, input_ids=self._tokens, position_ids=self._positions)


def capture_cuda(run: Run) -> Run:
    """Capture a function whose inputs stay where they are into a CUDA graph, which launches a whole
    decoding step at once. One that cannot be captured is called as it is, with a warning."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is set up on first use must not be captured
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            logits = run()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        logger.warning("No CUDA graph for decoding: %s", first_line(error))
        return run

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay
