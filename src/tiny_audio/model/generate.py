"""From a prefill to text: greedy and sampled decoding here, beam search through transformers.

A row's text depends on its own audio alone: rows stop at their own end token, at a loop or at a cap
in proportion to their own length, and rows that are done leave the batch.
Shapes: B utterances, R rows that are held, A audio tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError
from tiny_audio.model.attention import AudioAttention, observed
from tiny_audio.model.batch import Prefill
from tiny_audio.model.guards import Hypothesis as Hypothesis
from tiny_audio.model.guards import Repeats, best, is_silent, needs_fallback
from tiny_audio.model.hotwords import HotWords, Match, Scored
from tiny_audio.model.kv_cache import Captured, Growing, can_capture, capture_cuda, sees_all

Watch = Callable[[int, Sequence[int]], bool]


class _Token(NamedTuple):
    """One more token of one utterance."""

    id: int
    logprob: float
    attention: Tensor | None  # [A]
    position: float  # of the audio that the decoder looked at, where that matters; in audio tokens


@dataclass
class _Row:
    """One utterance while it is decoded."""

    number: int  # in the batch
    no_speech_prob: float
    tokens: list[_Token] = field(default_factory=list)
    repeats: Repeats = field(default_factory=Repeats)
    match: Match | None = None
    done: bool = False

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


@dataclass(frozen=True)
class Decoding:
    """A left-padded batch of B utterances, who decodes it and how far."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: Sequence[int]  # of tokens that end an answer, that of padding first
    prefill: Prefill
    caps: Sequence[int]  # the most new tokens of each row
    options: GenerationConfig
    audio_mask: Tensor  # [B, T]
    audio_token_seconds: float
    attention: bool = False  # whether hypotheses shall tell their attention to the audio
    forced: Sequence[Sequence[int]] | None = None  # the tokens of each row, if they are known

    def __post_init__(self) -> None:
        options, rising = self.options, self.options.temperature_increment_on_fallback
        if options.num_beams < 1:
            raise ConfigError(f"num_beams: must be 1 or more, not {options.num_beams}")
        if options.do_sample and not (options.temperature > 0 and 0 < options.top_p <= 1):
            raise ConfigError(
                "sampling needs temperature > 0 and 0 < top_p <= 1, not "
                f"{options.temperature} and {options.top_p}"
            )
        if options.num_beams > 1 and (options.hotwords or rising):
            raise ConfigError("beam search has no hot words and no fallback: use num_beams=1.")
        if rising is not None and not rising > 0:
            raise ConfigError(f"temperature_increment_on_fallback: must be above 0, not {rising}.")

    @cached_property
    def hotwords(self) -> HotWords | None:
        """The words to favour, if any."""
        words = self.options.hotwords if self.forced is None else []
        return HotWords(self.tokenizer, words, self.options.hotwords_boost) if words else None

    @cached_property
    def guarded(self) -> bool:
        """Whether loops are stopped."""
        return self.options.stop_loops and self.forced is None and sees_all(self.lm)

    def generate(self, watch: Watch | None = None) -> list[Hypothesis]:
        """Decode into B hypotheses, in order. ``watch`` is told a row and those of its tokens that
        stay after each step (not by beam search); where it is False, the row ends there."""
        if self.options.num_beams > 1:
            found = self._beam_search()
            if not self.attention:
                return found
            ids = [[*one.token_ids, self.end_ids[0]] for one in found]
            return replace(self, options=GenerationConfig(), forced=ids)._decode()
        tried = [[one] for one in self._decode(watch)]
        if rising := self.options.temperature_increment_on_fallback:
            for step in range(1, int(1 / rising + 1e-6) + 1):
                failed = [i for i, of in enumerate(tried) if needs_fallback(of[-1], self.options)]
                if not failed:
                    break
                again = self._sampled(failed, step * rising)._decode()
                for i, one in zip(failed, again, strict=True):
                    tried[i].append(one)
        chosen = [best(of, self.options) for of in tried]
        return [replace(h, text="") if is_silent(h, self.options) else h for h in chosen]

    def _sampled(self, rows: Sequence[int], temperature: float) -> Decoding:
        """Some of the rows, to be sampled."""
        return replace(
            self,
            prefill=Prefill(*(part[list(rows)] for part in self.prefill)),
            caps=[self.caps[i] for i in rows],
            audio_mask=self.audio_mask[list(rows)],
            options=replace(self.options, do_sample=True, temperature=temperature),
        )

    def stream(self) -> Iterator[str]:
        """Decode a batch of one and yield its text in pieces; joined they are ``generate``'s."""
        options = self.options
        if options.num_beams > 1 or options.temperature_increment_on_fallback:
            raise ConfigError("streaming cannot look back: it has neither beams nor fallback.")
        shown = ""
        row: _Row | None = None
        for (row,) in self._steps():
            text = self._text(self._settled(row))
            if piece := new_text(shown, text):
                yield piece
                shown = text
        assert row is not None
        found = self._hypothesis(row)
        if not is_silent(found, options) and (rest := found.text[len(shown) :]):
            yield rest

    def _decode(self, watch: Watch | None = None) -> list[Hypothesis]:
        """Decode all rows token by token."""
        rows: list[_Row] = []
        for rows in self._steps():
            if watch is not None:
                for row in rows:
                    row.done = row.done or not watch(row.number, self._settled(row))
        return [self._hypothesis(row) for row in rows]

    def _settled(self, row: _Row) -> list[int]:
        """Its tokens that stay, whatever comes after them."""
        most = self.options.no_speech_threshold
        if most is not None and row.no_speech_prob > most:
            return []  # its end tells whether anything stays
        ids = row.ids[: row.match.begin] if row.match else row.ids
        return ids if row.done or not self.guarded else ids[: len(row.ids) - row.repeats.unsettled]

    def _text(self, ids: Sequence[int]) -> str:
        """The text of tokens up to the first end token."""
        stop = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return str(self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=True)).strip()

    def _hypothesis(self, row: _Row) -> Hypothesis:
        ids = row.ids
        finished = bool(ids) and ids[-1] in self.end_ids
        seen = [token.attention for token in row.tokens if token.attention is not None]
        logprobs = [token.logprob for token in row.tokens]
        return Hypothesis(
            self._text(ids),
            ids[:-1] if finished else ids,
            sum(logprobs) / len(logprobs) if logprobs else None,
            finished,
            logprobs,
            torch.stack(seen) if seen else None,
            row.no_speech_prob,
            self.options.temperature if self.options.do_sample else 0.0,
        )

    def _steps(self) -> Iterator[list[_Row]]:
        """Decode token by token; yields all rows after each step. A row is done at its end token,
        its cap or a loop, and is dropped once that pays."""
        with ExitStack() as stack:
            attention = None
            if self.attention:
                attention = AudioAttention(self.audio_mask)
                stack.enter_context(observed(self.lm))
            past = self._start(attention)
            logits = past.first().float()
            ends = logits.softmax(-1)[:, list(self.end_ids)].sum(-1).tolist()
            rows = [_Row(number, probability) for number, probability in enumerate(ends)]
            held, noise, watched = rows, _Noise(self.options), False
            while True:
                chosen = self._advance(past, logits, held, noise, attention, watched)
                yield rows
                live = [i for i, row in enumerate(held) if not row.done]
                if not live:
                    return
                ids = torch.tensor(chosen, device=logits.device)
                if len(live) < len(held) and len(live) <= past.worth_keeping * len(held):
                    keep = torch.tensor(live, device=ids.device)
                    past.keep(keep)
                    held, ids = [held[i] for i in live], ids[keep]
                if self._to_be_watched(held) and not watched:
                    watched = True
                    if attention is None:
                        numbers = [row.number for row in held]
                        attention = AudioAttention(self.audio_mask[numbers])
                        stack.enter_context(observed(self.lm))
                        past.observe(attention)
                logits = past.next(ids).float()

    def _to_be_watched(self, held: Sequence[_Row]) -> bool:
        """Whether a row may have begun to loop, which shows in what the decoder looks at."""
        return self.guarded and any(row.repeats.suspicious for row in held if not row.done)

    def _advance(
        self,
        past: Growing,
        logits: Tensor,  # [R, V]
        held: Sequence[_Row],
        noise: _Noise,
        attention: AudioAttention | None,
        watched: bool,
    ) -> list[int]:
        """Give every row that is not done its next token; returns those of all rows."""
        ids, logprobs = self._choose(logits, held, noise)  # [R], [R]
        chosen = [Scored(*pair) for pair in zip(ids.tolist(), logprobs.tolist(), strict=True)]
        if self.hotwords is not None:
            chosen = self._favour(self.hotwords, past, logits, held, chosen)
        looks: Sequence[Tensor | None] = [None] * len(held)
        if self.attention and attention is not None:
            looks = attention.rows()
        places = [0.0] * len(held)
        if watched and attention is not None:
            places = attention.positions().tolist()
        for row, (token, logprob), look, place in zip(held, chosen, looks, places, strict=True):
            if row.done:
                continue
            row.tokens.append(_Token(token, logprob, look, place))
            row.done = token in self.end_ids or len(row.tokens) >= self.caps[row.number]
            if row.done and row.match and token not in self.end_ids:  # cut off within a hot word
                del row.tokens[row.match.begin :]
            if self.guarded and not row.done:
                row.repeats.add(row.ids)
                positions = [t.position for t in row.tokens]
                if loop := row.repeats.looped(positions, self.audio_token_seconds):
                    del row.tokens[-loop:]
                    row.done = True
        return [token for token, _ in chosen]

    def _favour(
        self,
        hotwords: HotWords,
        past: Growing,
        logits: Tensor,
        held: Sequence[_Row],
        chosen: Sequence[Scored],
    ) -> list[Scored]:
        """What the hot words make of what was chosen."""
        known = logits[:, hotwords.ids] - logits.logsumexp(-1, keepdim=True)
        favoured, undone = list(chosen), {}
        for i, (row, scores) in enumerate(zip(held, known.tolist(), strict=True)):
            if row.done:
                continue
            of = dict(zip(hotwords.ids, scores, strict=True))
            favoured[i], row.match, back = hotwords.step(row.match, row.ids, chosen[i], of)
            if back:
                del row.tokens[-back:]
                row.repeats, undone[i] = Repeats(), back
        past.undo(undone)
        return favoured

    def _choose(self, logits: Tensor, held: Sequence[_Row], noise: _Noise) -> tuple[Tensor, Tensor]:
        """The next token of each row, from logits [R, V]: ids [R] and log-probabilities [R]."""
        if self.forced is not None:
            at = [(self.forced[row.number], len(row.tokens)) for row in held]
            known = [own[i] if i < len(own) else self.end_ids[0] for own, i in at]
            ids = torch.tensor(known, device=logits.device)
        elif not self.options.do_sample:
            best, ids = logits.max(dim=-1)
            return ids, best - logits.logsumexp(dim=-1)
        else:
            ids = noise.sample(logits)
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
        found = []
        for ids, cap in zip(out.tolist(), self.caps, strict=True):
            stop = next((i for i, token in enumerate(ids[:cap]) if token in self.end_ids), cap)
            found.append(Hypothesis(self._text(ids[:stop]), ids[:stop], None, stop < cap))
        return found


def new_text(shown: str, text: str) -> str:
    """What a growing text adds to what was shown of it; nothing before it can be shown: a character
    of several bytes is a replacement mark until its last byte is there."""
    return text[len(shown) :] if text.startswith(shown) and not text.endswith("\ufffd") else ""


class _Noise:
    """Sampling whose random numbers are the same for every row, so that a clip has the same text
    alone and in any batch: the likeliest token after Gumbel noise on the logits."""

    def __init__(self, options: GenerationConfig) -> None:
        self._temperature, self._top_p = options.temperature, options.top_p
        self._generator = torch.Generator().manual_seed(options.seed)

    def sample(self, logits: Tensor) -> Tensor:
        """Tokens [R] drawn from logits [R, V]."""
        drawn = torch.empty(logits.shape[1]).exponential_(generator=self._generator)
        probs = (logits / self._temperature).softmax(dim=-1)
        ordered, order = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= self._top_p  # the first is always inside
        inside = torch.zeros_like(probs).scatter(1, order, ordered.masked_fill(outside, 0.0))
        return (inside / drawn.to(logits.device)).argmax(dim=-1)
