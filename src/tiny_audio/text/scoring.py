"""Scoring rules: what two texts are brought to before their words are compared.

A word error rate means nothing without the rule it was counted under, so every rule has a name
and a version, and both go into every summary (`rule.id`). A change that can alter a single score
is a new version. Differences that a rule forgives are forgiven on both sides alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tiny_audio.errors import ConfigError


@dataclass(frozen=True)
class ScoringRule:
    """A named, versioned way to normalise a reference and a hypothesis.

    primary: the figure that systems are compared by, ``wer`` or ``cer``. Where a rule is for any
    language, words are not what they are in English, and characters are the fairer unit.
    """

    name: str
    version: int
    normalise: Callable[[str], str]
    primary: str = "wer"

    @property
    def id(self) -> str:
        """Name and version, as summaries record it: scores compare only under the same id."""
        return f"{self.name}/{self.version}"


def whisper_en(text: str) -> str:
    """English as the Whisper paper scores it (Radford et al. 2022, appendix C).

    Lower case, no punctuation, no bracketed notes, no hesitations (um, uh), contractions and
    titles in full, numbers as digits. It is transformers' EnglishTextNormalizer **without** the
    table of British and American spellings, which ships with Whisper's checkpoints and not with
    transformers: "colour" against "color" counts as an error here, so an error rate can come out
    a little above one that was counted with the table, never below it. Known quirks are kept, for
    figures to stay comparable: "O'Neil" becomes "0 neil", a text that ends in "..." keeps a ".".
    """
    # A model caught in a loop can write thousands of digits, and the number rules fail on what
    # Python refuses to parse (more than 4,300 digits): long tokens are cut.
    text = re.sub(r"(\S{1000})(?=\S)", r"\1 ", text)
    return str(_stock("whisper-en")(text)).strip()


def basic(text: str) -> str:
    """Any language: lower case, punctuation and symbols to spaces, bracketed notes removed.

    transformers' BasicTextNormalizer, which keeps diacritics.
    """
    return str(_stock("basic")(text)).strip()


def characters(text: str) -> str:
    """As `basic`, then split into letters with their marks, as Whisper scores scripts that put no
    space between words (Chinese, Japanese, Thai)."""
    return str(_stock("characters")(text)).strip()


@cache
def _stock(name: str) -> Any:
    """transformers' own, on first use: importing this module stays cheap."""
    from transformers.models.whisper import english_normalizer

    if name == "whisper-en":
        return english_normalizer.EnglishTextNormalizer({})
    return english_normalizer.BasicTextNormalizer(split_letters=name == "characters")


SCORING = {
    "whisper-en": ScoringRule("whisper-en", 1, whisper_en),
    "basic": ScoringRule("basic", 1, basic, primary="cer"),
    "characters": ScoringRule("characters", 1, characters, primary="cer"),
}


def get_rule(name: str) -> ScoringRule:
    """The rule with this name or id; ConfigError lists the names there are."""
    rule = SCORING.get(name.partition("/")[0])
    if rule is None:
        known = ", ".join(sorted(SCORING))
        raise ConfigError(f"There is no scoring rule {name!r}: set it to one of {known}.")
    return rule


def require_same_rule(ids: Iterable[str]) -> None:
    """Raise ConfigError unless all scores were counted under the same rule and version."""
    found = sorted(set(ids))
    if len(found) > 1:
        raise ConfigError(
            f"Scores under {' and '.join(found)} cannot be compared: name one rule by --scoring, "
            "and all are scored again under it."
        )
