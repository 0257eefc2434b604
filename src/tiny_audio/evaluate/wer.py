"""Word and character error rates of a set.

    WER = (substitutions + deletions + insertions) / reference words

Counts are added up over a set, rates are never averaged; a set without a reference word has no WER.
Of alignments with equally few errors jiwer's is taken: S + D + I is the same in every tool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from tiny_audio.text.scoring import ScoringRule, get_rule, require_same_rule


class AlignedWord(NamedTuple):
    """One step: ``equal``, ``substitute``, ``delete`` or ``insert``; "" for a word that is not."""

    op: str
    reference: str
    hypothesis: str


class Counts(NamedTuple):
    """Hits and errors of an alignment, of words or of characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """The counts of all parts added up."""
        return cls(*(sum(column) for column in zip(*parts, strict=True)))

    @property
    def errors(self) -> int:
        """Edit distance."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference(self) -> int:
        """Length of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per reference unit; None where the reference is empty."""
        return self.errors / self.reference if self.reference else None


@dataclass(frozen=True, slots=True)
class UtteranceScore:
    """One utterance: both texts as they were compared, counts, and the word alignment."""

    reference: str
    hypothesis: str
    words: Counts
    characters: Counts  # spaces count
    alignment: tuple[AlignedWord, ...]


@dataclass(frozen=True)
class Score:
    """A scored set, the sum of its utterances in the order they were given; adds up with `+`."""

    rule: str
    words: Counts
    characters: Counts
    utterances: tuple[UtteranceScore, ...]

    @classmethod
    def of(cls, rule: str, utterances: Iterable[UtteranceScore]) -> Score:
        """The sum of scored utterances."""
        utterances = tuple(utterances)
        words = Counts.total(one.words for one in utterances)
        return cls(rule, words, Counts.total(one.characters for one in utterances), utterances)

    @property
    def wer(self) -> float | None:
        """Corpus word error rate; None where the set has no reference word."""
        return self.words.rate

    @property
    def cer(self) -> float | None:
        """Corpus character error rate; None without a reference character."""
        return self.characters.rate

    @property
    def sentence_error_rate(self) -> float | None:
        """Share of utterances with at least one word error; None for a set of none."""
        wrong = sum(one.words.errors > 0 for one in self.utterances)
        return wrong / len(self.utterances) if self.utterances else None

    def __add__(self, other: Score) -> Score:
        """Both sets as one; ConfigError where they were scored under different rules."""
        require_same_rule((self.rule, other.rule))
        return Score.of(self.rule, self.utterances + other.utterances)


def score(references: Sequence[str], hypotheses: Sequence[str], rule: ScoringRule | str) -> Score:
    """Align each hypothesis with its reference; ValueError if the lists differ in length."""
    rule = get_rule(rule) if isinstance(rule, str) else rule
    pairs = zip(references, hypotheses, strict=True)
    return Score.of(rule.id, (score_utterance(*pair, rule) for pair in pairs))


def score_utterance(reference: str, hypothesis: str, rule: ScoringRule) -> UtteranceScore:
    """Levenshtein's alignment over words and over characters, as jiwer computes it."""
    import jiwer  # on first use: importing this module stays cheap

    left, right = rule.normalise(reference).split(), rule.normalise(hypothesis).split()
    reference, hypothesis = " ".join(left), " ".join(right)
    words = jiwer.process_words(reference, hypothesis)
    alignment = (
        AlignedWord(chunk.type, *pair)
        for chunk in words.alignments[0]
        for pair in zip_longest(
            left[chunk.ref_start_idx : chunk.ref_end_idx],
            right[chunk.hyp_start_idx : chunk.hyp_end_idx],
            fillvalue="",
        )
    )
    characters = _counts(jiwer.process_characters(reference, hypothesis))
    return UtteranceScore(reference, hypothesis, _counts(words), characters, tuple(alignment))


def _counts(found: Any) -> Counts:
    return Counts(found.hits, found.substitutions, found.deletions, found.insertions)
