"""Text that nobody said: on audio without speech, in loops, and without end.

Everything is counted on the texts as they are scored, so that punctuation makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tiny_audio.evaluate.records import Evaluation, Record
from tiny_audio.evaluate.wer import UtteranceScore

PHRASE_WORDS = 10  # the longest phrase whose repetition is looked for
PHRASE_TIMES = 4  # so often in a row is a loop,
LOOP_WORDS = 6  # if it makes up so many words: "no no no no" is not
RUNAWAY_FACTOR, RUNAWAY_WORDS = 2, 5  # more words than factor * reference + words: out of hand
EXAMPLES = 10  # ids kept of each kind
_STUTTER = re.compile(r"(\S{1,20}?)\1{9,}")  # within one word, or where words are not parted
_LONGEST = 5000  # characters that are searched


def loop(text: str) -> str | None:
    """The phrase that a text repeats over and over, None where there is none.

    A phrase of up to 10 words, 4 times in a row or more, 6 words together or more; or up to 20
    characters, 10 times within a word.
    """
    words = text.split()
    for length in range(1, min(PHRASE_WORDS, len(words) // PHRASE_TIMES) + 1):
        same = 0  # words in a row that equal the one a phrase earlier
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            if same + length >= max(PHRASE_TIMES * length, LOOP_WORDS):
                return " ".join(words[place - length + 1 : place + 1])
    stutter = _STUTTER.search(text[:_LONGEST])
    return stutter.group(1) if stutter else None


def is_loop(score: UtteranceScore) -> bool:
    """Whether the hypothesis is caught in a loop that the reference does not have."""
    return loop(score.hypothesis) is not None and loop(score.reference) is None


def is_runaway(score: UtteranceScore) -> bool:
    """Whether far more words were written than said."""
    words = len(score.hypothesis.split())
    return words > RUNAWAY_FACTOR * score.words.reference + RUNAWAY_WORDS


def hallucination(evaluation: Evaluation) -> dict[str, Any]:
    """All of it, ready for JSON.

    nonspeech: of the utterances whose reference is empty, minutes, inserted words, and those by
    minute (None without such audio). empty: something was said, nothing written. loops, runaways:
    see `is_loop` and `is_runaway`. unfinished: cut off at the limit of new tokens.
    """
    pairs = list(zip(evaluation.scored, evaluation.score.utterances, strict=True))
    silent = [(record, one) for record, one in pairs if not one.reference]
    minutes = sum(record.duration for record, _ in silent) / 60
    inserted = sum(one.words.insertions for _, one in silent)
    return {
        "nonspeech": {
            "utterances": len(silent),
            "minutes": round(minutes, 3),
            "insertions": inserted,
            "insertions_per_minute": inserted / minutes if minutes else None,
            "answered": _found([r for r, one in silent if one.hypothesis], len(silent)),
        },
        "empty": _found(
            [r for r, one in pairs if one.reference and not one.hypothesis], len(pairs)
        ),
        "loops": _found([r for r, one in pairs if is_loop(one)], len(pairs)),
        "runaways": _found([r for r, one in pairs if is_runaway(one)], len(pairs)),
        "unfinished": _found([r for r, _ in pairs if not r.finished], len(pairs)),
    }


def _found(records: Sequence[Record], of: int) -> dict[str, Any]:
    return {
        "count": len(records),
        "share": len(records) / of if of else None,
        "examples": [record.id for record in records[:EXAMPLES]],
    }
