"""From a prefill to text: greedy and sampled decoding here, beam search through transformers.

A row's text depends on its own audio alone: rows stop at their own end token or at a cap in
proportion to their own length, and rows that are done leave the batch.

Keys and values are kept by ``Preallocated`` in buffers that are made once and written in place.
``Growing`` is transformers' own cache, which is copied for every token; it serves decoders with
layers of other kinds (sliding windows, recurrences) and attention kernels that take no such mask.

Shapes: B utterances, R rows that are held, H key-value heads, C positions of the buffers, K width
of a head, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError
from tiny_audio.model.batch import Prefill

Run = Callable[[], Tensor]

logger = logging.getLogger(__name__)

ROOM = 64  # new tokens that buffers have positions for before they are made anew
EAGER_STEPS = 3  # of one shape before it is captured: capturing costs about as much


@dataclass(frozen=True)
class Hypothesis:
    """What was decoded for one utterance."""

    text: str
    token_ids: list[int]  # without the end token
    logprob: float | None  # mean over tokens, the end token included; None for beam search
    finished: bool  # False where the cap on new tokens cut it off


class TextDecoder(NamedTuple):
    """A language model, its tokenizer, and the ids that end an answer, that of padding first."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: Sequence[int]

    def hypothesis(self, ids: list[int], logprobs: Sequence[float] = ()) -> Hypothesis:
        """Cut at the first end token and turn ids into text."""
        stop = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        text = str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True)).strip()
        mean = sum(logprobs) / len(logprobs) if logprobs else None
        return Hypothesis(text, ids[:stop], mean, stop < len(ids))


class _Step(NamedTuple):
    """One decoded token for each row that was still active."""

    rows: list[int]
    tokens: list[int]
    held: list[int]  # their places among the R rows that are held
    logprobs: Tensor  # [R] of all that are held; they stay on the device until the end


def generate(
    decoder: TextDecoder, prefill: Prefill, seconds: Sequence[float], options: GenerationConfig
) -> list[Hypothesis]:
    """Decode a left-padded batch of B utterances of so many seconds into B hypotheses, in order."""
    _check(options)
    if options.num_beams > 1:
        return _beam_search(decoder, prefill, seconds, options)
    tokens: list[list[int]] = [[] for _ in seconds]
    logprobs: list[list[float]] = [[] for _ in seconds]
    steps = list(_decode(decoder, prefill, seconds, options))
    scores = iter(torch.cat([step.logprobs for step in steps]).tolist())
    for step in steps:
        of_held = list(islice(scores, len(step.logprobs)))
        for row, token, held in zip(step.rows, step.tokens, step.held, strict=True):
            tokens[row].append(token)
            logprobs[row].append(of_held[held])
    return [decoder.hypothesis(*of_row) for of_row in zip(tokens, logprobs, strict=True)]


def stream(
    decoder: TextDecoder, prefill: Prefill, seconds: Sequence[float], options: GenerationConfig
) -> Iterator[str]:
    """Decode a batch of one and yield its text in pieces; joined they are ``generate``'s text."""
    _check(options)
    if options.num_beams > 1:
        raise ConfigError("streaming cannot look back, so it has no beams; use num_beams=1")
    ids: list[int] = []
    shown = ""
    for step in _decode(decoder, prefill, seconds, options):
        ids += step.tokens
        text = decoder.hypothesis(ids).text
        # A character of several bytes is a replacement mark until its last byte is there.
        if text.startswith(shown) and len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    if rest := decoder.hypothesis(ids).text[len(shown) :]:
        yield rest


def _check(options: GenerationConfig) -> None:
    if options.num_beams < 1:
        raise ConfigError(f"num_beams: must be 1 or more, not {options.num_beams}")
    if options.do_sample and not (options.temperature > 0 and 0 < options.top_p <= 1):
        raise ConfigError(
            f"sampling needs temperature > 0 and 0 < top_p <= 1, not {options.temperature} and "
            f"{options.top_p}"
        )


def _caps(seconds: Sequence[float], options: GenerationConfig) -> list[int]:
    """The most new tokens of each row: in proportion to its audio, never below min_tokens."""
    return [max(options.min_tokens, math.ceil(s * options.tokens_per_second)) for s in seconds]


def _decode(
    decoder: TextDecoder, prefill: Prefill, seconds: Sequence[float], options: GenerationConfig
) -> Iterator[_Step]:
    """Decode token by token; rows leave at their end token or cap.

    A row that is done is dropped once that pays; until then it is decoded on and nobody looks.
    """
    past = start_decoding(decoder.lm, prefill, graphs=options.cuda_graphs)
    caps = _caps(seconds, options)
    rows: list[int | None] = list(range(len(caps)))  # of each row that is held; None: done
    logits = past.first()
    count = 0
    while True:
        chosen, logprobs = _choose(logits.float(), options)  # [R], [R]
        count += 1
        ids = chosen.tolist()
        active = [(held, row) for held, row in enumerate(rows) if row is not None]
        held = [held for held, _ in active]
        yield _Step([row for _, row in active], [ids[i] for i in held], held, logprobs)
        for i, row in active:
            if ids[i] in decoder.end_ids or count >= caps[row]:
                rows[i] = None
        live = [i for i, row in enumerate(rows) if row is not None]
        if not live:
            return
        if len(live) < len(rows) and past.worth(len(live), len(rows)):
            keep = torch.tensor(live, device=chosen.device)
            past.keep(keep)
            rows, chosen = [rows[i] for i in live], chosen[keep]
        logits = past.next(chosen)


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


def _beam_search(
    decoder: TextDecoder, prefill: Prefill, seconds: Sequence[float], options: GenerationConfig
) -> list[Hypothesis]:
    caps = _caps(seconds, options)
    lm: Any = decoder.lm
    out = lm.generate(
        inputs_embeds=prefill.inputs_embeds,
        attention_mask=prefill.attention_mask,
        max_new_tokens=max(caps),
        num_beams=options.num_beams,
        do_sample=options.do_sample,
        temperature=options.temperature if options.do_sample else None,
        top_p=options.top_p if options.do_sample else None,
        top_k=None,
        eos_token_id=list(decoder.end_ids),
        pad_token_id=decoder.end_ids[0],
    )
    return [decoder.hypothesis(ids[:cap]) for ids, cap in zip(out.tolist(), caps, strict=True)]


def start_decoding(lm: PreTrainedModel, prefill: Prefill, *, graphs: bool) -> Growing:
    """The fastest cache that the decoder can use; ``graphs``: on CUDA, replay a captured step."""
    if not can_preallocate(lm):
        return Growing(lm, prefill)
    cuda = prefill.inputs_embeds.is_cuda
    replay = cuda and graphs and not torch.is_autocast_enabled("cuda")
    return Preallocated(lm, prefill, capture=capture_cuda if replay else None)


def can_preallocate(lm: PreTrainedModel) -> bool:
    """Whether every layer attends to all that came before, through a kernel that takes a mask."""
    layers = DynamicCache(config=lm.config).layers
    return (
        lm.config._attn_implementation in ("sdpa", "eager")
        and len(layers) > 0
        and all(type(layer) is DynamicLayer for layer in layers)
    )


class Growing:
    """Decode one token for every row that is held, with transformers' own cache."""

    def __init__(self, lm: PreTrainedModel, prefill: Prefill) -> None:
        self._lm, self._prefill = lm, prefill
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
        """Read one token [R] for each row; logits [R, V] of the one after it.

        They are valid until the next call.
        """
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        logits = self._logits(
            self._mask, input_ids=tokens.unsqueeze(1), position_ids=self._positions
        )
        self._positions = self._positions + 1
        return logits

    def worth(self, live: int, held: int) -> bool:
        """Whether dropping the rows that are done saves more than it costs."""
        return live < held

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, in this order (ascending)."""
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]

    def _logits(self, mask: Tensor, **kwargs: Tensor) -> Tensor:
        kwargs["attention_mask"] = mask
        out: Any = self._lm(**kwargs, past_key_values=self._cache, use_cache=True)
        return cast(Tensor, out.logits[:, -1])


class Preallocated(Growing):
    """The same with buffers that are written in place; ``can_preallocate`` must hold.

    ``capture`` makes of a function of fixed inputs one that replays it: shapes are fixed then, all
    positions are read, and those not yet filled are masked. None: only those filled are read.
    """

    def __init__(
        self, lm: PreTrainedModel, prefill: Prefill, capture: Callable[[Run], Run] | None = None
    ) -> None:
        super().__init__(lm, prefill)
        self._capture = capture
        rows, self._length = self._mask.shape
        self._layers = [Buffers(capture is not None) for _ in self._cache.layers]
        self._cache = Cache(layers=list(self._layers))
        self._tokens = torch.zeros(rows, 1, dtype=torch.long, device=self._mask.device)
        self._slot = torch.full((1,), self._length, device=self._mask.device)  # of that token
        self._mask = _widened(self._mask.bool()[:, None, None])  # [R, 1, 1, C]
        self._replay: Run | None = None
        self._steps = 0  # of the present shape

    def next(self, tokens: Tensor) -> Tensor:
        if self._length == self._mask.shape[-1]:
            self._mask = _widened(self._mask)
            self._replay, self._steps = None, 0
        for layer in self._layers:
            layer.prepare(self._length, self._mask.shape[-1], self._slot)
        self._tokens.copy_(tokens.unsqueeze(1))
        self._mask[..., self._length] = True
        if self._capture is not None and self._steps == EAGER_STEPS:
            self._replay = self._capture(self._run)
        self._steps += 1
        logits = self._run() if self._replay is None else self._replay()
        self._length += 1
        self._positions += 1
        self._slot += 1
        return logits

    def worth(self, live: int, held: int) -> bool:
        # A new shape has to be captured anew; without that, only the copy counts.
        return live <= held // 2 if self._capture else 8 * live <= 7 * held

    def keep(self, rows: Tensor) -> None:
        for layer in self._layers:
            layer.keep(rows, self._length)
        self._tokens, self._positions = self._tokens[rows], self._positions[rows]
        self._mask = self._mask[rows]
        self._replay, self._steps = None, 0

    def _run(self) -> Tensor:
        mask = self._mask if self._capture else self._mask[..., : self._length + 1]
        if self._lm.config._attn_implementation == "eager":  # adds its mask
            hidden = torch.finfo(self._lm.dtype).min
            mask = torch.zeros_like(mask, dtype=self._lm.dtype).masked_fill(~mask, hidden)
        return self._logits(mask, input_ids=self._tokens, position_ids=self._positions)


class Buffers(CacheLayerMixin):
    """One layer's keys and values [R, H, C, K], of which the first positions are filled.

    ``fixed``: the step's shapes stay; all of it is read.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, fixed: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fixed = fixed
        self._length = 0
        self._slot: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = _widened(key_states, 2), _widened(value_states, 2)
        self._length = key_states.shape[2]
        self.is_initialized = True

    def prepare(self, length: int, positions: int, slot: Tensor) -> None:
        """Before a step: how many positions are filled, and how many there must be."""
        if self.keys.shape[2] < positions:
            self.keys, self.values = _widened(self.keys, 2), _widened(self.values, 2)
        self._length, self._slot = length, slot

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:  # the prompt
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        if self._fixed:
            assert self._slot is not None
            self.keys.index_copy_(2, self._slot, key_states)
            self.values.index_copy_(2, self._slot, value_states)
            return self.keys, self.values
        end = self._length + 1
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, rows: Tensor, length: int) -> None:
        """Move the rows to the front and look at no others."""
        for buffer in (self.keys, self.values):
            buffer[: len(rows), :, :length] = buffer[rows, :, :length]
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]

    def get_seq_length(self) -> int:
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._length + query_length, 0

    def get_max_length(self) -> int:
        return -1


def _widened(old: Tensor, dim: int = -1) -> Tensor:
    """With ROOM more zeros along ``dim``: what is masked must be finite."""
    sizes = list(old.shape)
    sizes[dim] = ROOM
    return torch.cat([old, old.new_zeros(sizes)], dim=dim)


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
        logger.warning("No CUDA graph for decoding: %s", str(error).strip().splitlines()[0])
        return run

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay
