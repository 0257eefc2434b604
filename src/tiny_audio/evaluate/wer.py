"""Word errors: one computation gives one result, and every figure is a view on it.

    WER = (substitutions + deletions + insertions) / reference words

over a whole set: counts are added up, rates are never averaged. So a set may be scored in parts
(batches, processes, speakers) and the parts added together with `+` or `sum`.

Where several alignments have the same least number of errors, one of them is taken (jiwer's, that
is rapidfuzz's): "a b" against "b a" may be two substitutions, or a deletion and an insertion. The
sum S + D + I, and the difference I - D of the two lengths, are the same whichever is taken; another
tool's S, D and I may differ where there are such ties.

Empty references (noise, silence) are part of a set: whatever is written there counts as
insertions. A set with no reference word at all has no WER (None), only insertions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from tiny_audio.text.scoring import ScoringRule, get_rule, require_same_rule

if TYPE_CHECKING:
    from jiwer import AlignmentChunk

Operation = Literal["equal", "substitute", "delete", "insert"]


class AlignedWord(NamedTuple):
    """One step of an alignment; an inserted word has no reference "", a deleted no hypothesis."""

    op: Operation
    reference: str
    hypothesis: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Outcome of an alignment in numbers, of words or of characters; adds up with `+`."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

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

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True, slots=True)
class UtteranceScore:
    """One utterance: both texts as they were compared, counts, and the word alignment."""

    reference: str
    hypothesis: str
    words: Counts
    characters: Counts
    alignment: tuple[AlignedWord, ...]

    @property
    def wer(self) -> float | None:
        """Word error rate; None where the reference is empty."""
        return self.words.rate

    @property
    def cer(self) -> float | None:
        """Character error rate (spaces count); None where the reference is empty."""
        return self.characters.rate


@dataclass(frozen=True)
class Score:
    """A scored set, the sum of its utterances (in the order they were given)."""

    rule: str
    words: Counts
    characters: Counts
    utterances: tuple[UtteranceScore, ...]

    @property
    def hits(self) -> int:
        """Words: hits."""
        return self.words.hits

    @property
    def substitutions(self) -> int:
        """Words: substitutions."""
        return self.words.substitutions

    @property
    def deletions(self) -> int:
        """Words: deletions."""
        return self.words.deletions

    @property
    def insertions(self) -> int:
        """Words: insertions."""
        return self.words.insertions

    @property
    def reference_words(self) -> int:
        """Words there were to be said."""
        return self.words.reference

    @property
    def n_utterances(self) -> int:
        """Utterances in the set, empty ones too."""
        return len(self.utterances)

    @property
    def n_empty_references(self) -> int:
        """Utterances where, under the rule, nothing is to be said."""
        return sum(not one.reference for one in self.utterances)

    @property
    def wer(self) -> float | None:
        """Corpus word error rate; None where the set has no reference word."""
        return self.words.rate

    @property
    def cer(self) -> float | None:
        """Corpus character error rate (spaces count); None without a reference character."""
        return self.characters.rate

    @property
    def sentence_error_rate(self) -> float | None:
        """Share of utterances with at least one word error; None for a set of none."""
        if not self.utterances:
            return None
        return sum(one.words.errors > 0 for one in self.utterances) / len(self.utterances)

    def summary(self) -> dict[str, str | int | float | None]:
        """The figures and the rule they were counted under, ready for JSON."""
        return {
            "scoring": self.rule,
            "utterances": self.n_utterances,
            "empty_references": self.n_empty_references,
            "reference_words": self.reference_words,
            "hits": self.hits,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "wer": self.wer,
            "cer": self.cer,
            "sentence_error_rate": self.sentence_error_rate,
        }

    def __add__(self, other: Score) -> Score:
        """Both sets as one; ConfigError where they were scored under different rules."""
        require_same_rule((self.rule, other.rule))
        return Score(
            self.rule,
            self.words + other.words,
            self.characters + other.characters,
            self.utterances + other.utterances,
        )

    def __radd__(self, other: Literal[0] | Score) -> Score:
        """Let `sum` begin with its 0."""
        return self if other == 0 else NotImplemented


def score(references: Sequence[str], hypotheses: Sequence[str], rule: ScoringRule | str) -> Score:
    """Align each hypothesis with its reference under `rule` and count the errors.

    Raises ValueError if the two lists differ in length, ConfigError for an unknown rule's name.
    Alignment: Levenshtein's, as jiwer computes it, over words and over characters.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    rule = get_rule(rule) if isinstance(rule, str) else rule
    utterances = tuple(
        _score_one(rule.normalise(reference).split(), rule.normalise(hypothesis).split())
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    )
    words = sum((one.words for one in utterances), Counts())
    characters = sum((one.characters for one in utterances), Counts())
    return Score(rule.id, words, characters, utterances)


def _score_one(reference_words: list[str], hypothesis_words: list[str]) -> UtteranceScore:
    import jiwer  # on first use: importing this module stays cheap

    reference, hypothesis = " ".join(reference_words), " ".join(hypothesis_words)
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return UtteranceScore(
        reference,
        hypothesis,
        Counts(words.hits, words.substitutions, words.deletions, words.insertions),
        Counts(
            characters.hits, characters.substitutions, characters.deletions, characters.insertions
        ),
        tuple(_aligned(words.alignments[0], reference_words, hypothesis_words)),
    )


def _aligned(
    chunks: list[AlignmentChunk], reference: list[str], hypothesis: list[str]
) -> Iterator[AlignedWord]:
    """Word by word, from spans of words."""
    for chunk in chunks:
        op = cast(Operation, chunk.type)
        left = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        right = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for a, b in zip_longest(left, right, fillvalue=""):
            yield AlignedWord(op, a, b)
