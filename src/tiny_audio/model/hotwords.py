"""Hot words: words that are favoured while decoding, token by token.

Each token of a hot word may be less likely than what would be written otherwise, by ``boost`` on
the average of those so far. A hot word that is begun and not completed is taken back, and what
would have been written stands in its place: a text changes only where a whole hot word comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from tiny_audio.errors import ConfigError


class Scored(NamedTuple):
    """A token and its log-probability."""

    id: int
    logprob: float


@dataclass(frozen=True)
class Match:
    """A hot word that is being written."""

    begin: int  # how many tokens come before it
    sequences: list[tuple[int, ...]]  # what it may still become
    deficit: float  # nats by which its tokens are less likely than what was chosen
    chosen: Scored  # in place of its first token
    known: Mapping[int, float]  # log-probabilities of hot words' tokens there
    tried: frozenset[int]  # first tokens there, this one among them


class HotWords:
    """Words in all their writings, as tokens.

    Raises:
        ConfigError: a word is empty or cannot be written with these tokens, or the boost is not
            above 0.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], boost: float
    ) -> None:
        if not boost > 0:
            raise ConfigError(f"hotwords_boost: must be above 0, not {boost:g}.")
        self._tokenizer, self._boost = tokenizer, boost
        written = [form for word in words for form in _forms(word)]
        self._first = [self._tokens(form, "") for form in written]  # where the text begins
        self._later = [self._tokens(form, "a") for form in written]  # after another word
        self.ids = sorted({i for sequence in self._first + self._later for i in sequence})

    def _tokens(self, word: str, before: str) -> tuple[int, ...]:
        encode: Any = self._tokenizer.encode
        head = encode(before, add_special_tokens=False)
        ids = encode(f"{before} {word}" if before else word, add_special_tokens=False)[len(head) :]
        if str(self._tokenizer.decode(ids)).strip() != word:
            raise ConfigError(f"hotwords: this model has no tokens for {word!r}.")
        return tuple(ids)

    def step(
        self, match: Match | None, ids: Sequence[int], chosen: Scored, known: Mapping[int, float]
    ) -> tuple[Scored, Match | None, int]:
        """What to write after tokens ``ids`` in place of what was chosen, the match that it belongs
        to, and how many of the tokens are taken back first.

        ``known``: log-probabilities of the hot words' tokens.
        """
        if match is None:
            return *self._begin(len(ids), chosen, known, frozenset()), 0
        depth = len(ids) - match.begin
        longer = {sequence[depth] for sequence in match.sequences if len(sequence) > depth}
        whole = any(len(sequence) == depth for sequence in match.sequences)
        if whole and chosen.id not in longer:
            kept = not match.deficit or not self._continues(ids, chosen.id)
        else:
            best = chosen.id if whole else max(longer, key=known.__getitem__)
            deficit = match.deficit + max(0.0, chosen.logprob - known[best])
            if deficit <= self._boost * (depth + 1):
                left = [s for s in match.sequences if s[depth : depth + 1] == (best,)]
                further = replace(match, sequences=left, deficit=deficit)
                return Scored(best, known[best]), further, 0
            kept = not match.deficit  # what there is would have been written otherwise, too
        if kept:
            return *self._begin(len(ids), chosen, known, frozenset()), 0
        return *self._begin(match.begin, match.chosen, match.known, match.tried), depth

    def _begin(
        self, begin: int, chosen: Scored, known: Mapping[int, float], tried: frozenset[int]
    ) -> tuple[Scored, Match | None]:
        """Try the likeliest hot word that was not yet tried there."""
        sequences = self._later if begin else self._first
        firsts = {sequence[0] for sequence in sequences} - tried
        best = max(firsts, key=known.__getitem__, default=None)
        if best is None or (deficit := max(0.0, chosen.logprob - known[best])) > self._boost:
            return chosen, None
        left = [sequence for sequence in sequences if sequence[0] == best]
        match = Match(begin, left, deficit, chosen, known, tried | {best})
        return Scored(best, known[best]), match

    def _continues(self, ids: Sequence[int], following: int) -> bool:
        """Whether a token goes on with the word that ``ids`` end with."""
        decode: Callable[..., Any] = self._tokenizer.decode
        before, after = str(decode(list(ids))), str(decode([*ids, following]))
        return after[len(before) :][:1].isalnum()


def _forms(word: str) -> list[str]:
    """A word as it is given, in lower case and with a capital."""
    if not word.strip():
        raise ConfigError("hotwords: one of them is empty.")
    word = " ".join(word.split())
    return list(dict.fromkeys([word, word.lower(), word[0].upper() + word[1:]]))
