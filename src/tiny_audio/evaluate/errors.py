"""What goes wrong: confused words, kinds of words, homophones, and text that nobody said.

Everything is read off the alignments of a scored evaluation; words are as the scoring rule left
them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

from tiny_audio.evaluate.results import Evaluation, Record
from tiny_audio.evaluate.wer import AlignedWord, Counts, UtteranceScore

# ------------------------------------------------------------------------------------ confusions

Pair = tuple[str, str]  # reference, hypothesis; "" where there is none
Confusions = dict[Pair, list[str]]  # ids of utterances, one for each time; the most frequent first


def confusions(evaluation: Evaluation) -> dict[str, Confusions]:
    """Errors by kind: ``substitute``, ``delete``, ``insert`` and ``boundary``.

    boundary: the same letters with other spaces, such as ("every one", "everyone"); their steps
    are counted in the other three too.
    """
    found: dict[str, Confusions] = {}
    for kind in ("substitute", "delete", "insert", "boundary"):
        found[kind] = _by_frequency(
            (pair, record.id)
            for record, one in evaluation.pairs()
            for pair in (
                _boundaries(one.alignment)
                if kind == "boundary"
                else [(s.reference, s.hypothesis) for s in one.alignment if s.op == kind]
            )
        )
    return found


def _by_frequency(items: Iterable[tuple[Pair, str]]) -> Confusions:
    found: Confusions = defaultdict(list)
    for pair, name in items:
        found[pair].append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _boundaries(alignment: Sequence[AlignedWord]) -> Iterator[Pair]:
    """Stretches of errors in which only the spaces differ."""
    for wrong, steps in groupby(alignment, key=lambda step: step.op != "equal"):
        if not wrong:
            continue
        span = list(steps)
        reference = " ".join(step.reference for step in span if step.reference)
        hypothesis = " ".join(step.hypothesis for step in span if step.hypothesis)
        if reference and reference.replace(" ", "") == hypothesis.replace(" ", ""):
            yield reference, hypothesis


# -------------------------------------------------------------------------------- kinds of words

FUNCTION_WORDS = frozenset(
    """a about above across after against all along although am among an and another any are around
    as at be because been before behind being below beneath beside between beyond both but by can
    could did do does doing down during each either every few for from had has have having he her
    hers herself him himself his how i if in inside into is it its itself less many may me might
    mine more most much must my myself near neither no nor not of off on once or other ought our
    ours ourselves out outside over own per shall she should since so some such than that the their
    theirs them themselves then there these they this those though through to toward towards under
    unless until up upon us was we were what when where whether which while who whom whose why will
    with within without would yet you your yours yourself""".split()
)
NUMBER_WORDS = frozenset(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred hundreds thousand thousands million millions billion billions dozen first second third
    fourth fifth sixth seventh eighth ninth tenth half quarter""".split()
)
BANDS = ((1, "seen once"), (4, "seen 2 to 4 times"), (19, "seen 5 to 19 times"))
OFTEN = "seen 20 times or more"
NEVER = "never seen"

_WORD = re.compile(r"(?=.*[a-z])[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.?!:;\"”)\]]$|^[-–—]+$")
_COUNTS = {
    "equal": Counts(hits=1),
    "substitute": Counts(substitutions=1),
    "delete": Counts(deletions=1),
    "insert": Counts(insertions=1),
}


def word_classes(
    evaluation: Evaluation, seen: Mapping[str, int] | None = None
) -> dict[str, Counts]:
    """Counts of numbers, names, function words, other words, and of words by frequency.

    Substitutions and deletions go to the class of the reference word, insertions to that of the
    inserted one. Numbers, names and function words may overlap; bands of frequency do not.

    Args:
        seen: word -> how often it was seen, for example in training; by default how often it is
            said in the references themselves.
    """
    if seen is None:
        seen = Counter(w for u in evaluation.score.utterances for w in u.reference.split())
    names = proper_names(record.reference for record in evaluation.scored)
    found: dict[str, Counts] = defaultdict(Counts)
    for one in evaluation.score.utterances:
        for step in one.alignment:
            for name in _classes(step.reference or step.hypothesis, names, seen):
                found[name] += _COUNTS[step.op]
    order = ["numbers", "names", "function words", "other words", OFTEN]
    order += [*(name for _, name in reversed(BANDS)), NEVER]
    return {name: found[name] for name in order if name in found}


def _classes(word: str, names: set[str], seen: Mapping[str, int]) -> Iterator[str]:
    number = word in NUMBER_WORDS or any(c.isdigit() for c in word)
    if number:
        yield "numbers"
    if word in names:
        yield "names"
    if word in FUNCTION_WORDS:
        yield "function words"
    elif not number and word not in names:
        yield "other words"
    times = seen.get(word, 0)
    yield NEVER if not times else next((name for most, name in BANDS if times <= most), OFTEN)


def proper_names(references: Iterable[str]) -> set[str]:
    """Words, in lower case, that are written with a capital within a sentence, and never without.

    Only references in mixed case tell; for languages that capitalise nouns this is of no use.
    """
    capital: set[str] = set()
    small: set[str] = set()
    for reference in references:
        if reference.isupper() or reference.islower():
            continue
        tokens = reference.split()
        for before, token in zip([".", *tokens], tokens, strict=False):
            word = re.sub(r"['’]s$", "", token.strip(".,;:?!\"'“”‘’()[]-"))
            if word[:1].islower():
                small.add(word.lower())
            elif word[:1].isupper() and _WORD.fullmatch(word) and not _SENTENCE_END.search(before):
                capital.add(word.lower())
    return capital - small


# ------------------------------------------------------------------------------------ homophones

_LONGEST = 2  # words in a phrase of homophones.txt
_Phrases = list[list[tuple[int, str, frozenset[int]]]]  # at each word: length, phrase, groups


def forgive_homophones(evaluation: Evaluation) -> tuple[int, Confusions]:
    """Word errors if words that sound alike were forgiven (English), and those that were.

    The least number of errors when phrases of one group of `homophones.txt` may stand for each
    other: who writes "their" for "there" has heard well. A contraction that the scoring rule has
    spelled out ("they are") counts as the contraction.
    """
    errors, pairs = 0, []
    for record, one in evaluation.pairs():
        left, forgiven = _forgive_utterance(one)
        errors += left
        pairs += [(pair, record.id) for pair in forgiven]
    return errors, _by_frequency(pairs)


@cache
def homophone_groups() -> dict[str, frozenset[int]]:
    """Phrase (lower case) -> numbers of the groups that it stands in."""
    text = files("tiny_audio.evaluate").joinpath("homophones.txt").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    found: dict[str, frozenset[int]] = defaultdict(frozenset)
    for number, line in enumerate(lines):
        for phrase in line.split(","):
            found[phrase.strip()] |= {number}
    return dict(found)


def _forgive_utterance(one: UtteranceScore) -> tuple[int, list[Pair]]:
    """Errors that are left in an utterance, and the pairs that were forgiven."""
    if not one.words.errors:
        return 0, []
    reference, hypothesis = one.reference.split(), one.hypothesis.split()
    left, right = _phrases(reference), _phrases(hypothesis)
    said, written = _members(left), _members(right)
    if not any(len(said[group] | written[group]) > 1 for group in said.keys() & written.keys()):
        return one.words.errors, []
    return _align(reference, hypothesis, left, right)


def _phrases(words: Sequence[str]) -> _Phrases:
    """The phrases of the list that end at each word."""
    table = homophone_groups()
    found: _Phrases = []
    for end in range(1, len(words) + 1):
        lengths = range(1, min(_LONGEST, end) + 1)
        phrases = [(n, " ".join(words[end - n : end])) for n in lengths]
        found.append([(n, phrase, table[phrase]) for n, phrase in phrases if phrase in table])
    return found


def _members(phrases: _Phrases) -> dict[int, set[str]]:
    """Group -> its phrases that are met."""
    found: dict[int, set[str]] = defaultdict(set)
    for _, phrase, groups in (one for here in phrases for one in here):
        for group in groups:
            found[group].add(phrase)
    return found


def _align(
    reference: Sequence[str], hypothesis: Sequence[str], left: _Phrases, right: _Phrases
) -> tuple[int, list[Pair]]:
    """Levenshtein's recursion with one step more: homophonous phrases stand for each other."""
    cost = [list(range(len(hypothesis) + 1))]
    steps: dict[tuple[int, int], tuple[int, int, Pair]] = {}  # where a pair was the best
    for i, word in enumerate(reference, 1):
        row = [i]
        for j, other in enumerate(hypothesis, 1):
            best = min(cost[i - 1][j - 1] + (word != other), cost[i - 1][j] + 1, row[j - 1] + 1)
            for a, phrase, groups in left[i - 1]:
                for b, written, others in right[j - 1]:
                    if phrase == written or not groups & others:
                        continue
                    before = cost[i - a][j - b]
                    if before < best:
                        best = before
                        steps[i, j] = (a, b, (phrase, written))
            row.append(best)
        cost.append(row)
    pairs: list[Pair] = []
    i, j = len(reference), len(hypothesis)
    while i and j:
        if (i, j) in steps:
            a, b, pair = steps[i, j]
            pairs.append(pair)
            i, j = i - a, j - b
        elif cost[i][j] == cost[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1]):
            i, j = i - 1, j - 1
        elif cost[i][j] == cost[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return cost[-1][-1], pairs[::-1]


# --------------------------------------------------------------------------------- hallucination

PHRASE_WORDS = 10  # the longest phrase whose repetition is looked for
PHRASE_TIMES = 4  # so often in a row is a loop,
LOOP_WORDS = 6  # if it makes up so many words: "no no no no" is not
RUNAWAY_FACTOR, RUNAWAY_WORDS = 2, 5  # more words than factor * reference + words
EXAMPLES = 10  # ids kept of each kind
_STUTTER = re.compile(r"(\S{1,20}?)\1{9,}")  # within one word, or where words are not parted
_SEARCHED = 5000  # characters


def loop(text: str) -> str | None:
    """The phrase that a text repeats over and over, None where there is none.

    A phrase of up to 10 words, 4 times in a row or more, 6 words together or more; or up to 20
    characters, 10 times within a word.
    """
    words = text.split()
    for length in range(1, min(PHRASE_WORDS, len(words) // PHRASE_TIMES) + 1):
        same = 0  # words in a row that equal the one a phrase earlier
        for i in range(length, len(words)):
            same = same + 1 if words[i] == words[i - length] else 0
            if same + length >= max(PHRASE_TIMES * length, LOOP_WORDS):
                return " ".join(words[i - length + 1 : i + 1])
    stutter = _STUTTER.search(text[:_SEARCHED])
    return stutter.group(1) if stutter else None


def hallucination(evaluation: Evaluation) -> dict[str, Any]:
    """Text that nobody said, ready for JSON.

    nonspeech: of the utterances whose reference is empty, minutes, inserted words, and those by
    minute (None without such audio). empty: something was said, nothing written. loops: that the
    reference does not have. runaways: far more words written than said. unfinished: cut off at
    the limit of new tokens.
    """
    pairs = evaluation.pairs()

    def listed(records: Sequence[Record], of: int = len(pairs)) -> dict[str, Any]:
        share = len(records) / of if of else None
        examples = [record.id for record in records[:EXAMPLES]]
        return {"count": len(records), "share": share, "examples": examples}

    silent = [(record, one) for record, one in pairs if not one.reference]
    minutes = sum(record.duration for record, _ in silent) / 60
    inserted = sum(one.words.insertions for _, one in silent)
    return {
        "nonspeech": {
            "utterances": len(silent),
            "minutes": round(minutes, 3),
            "insertions": inserted,
            "insertions_per_minute": inserted / minutes if minutes else None,
            "answered": listed([r for r, one in silent if one.hypothesis], len(silent)),
        },
        "empty": listed([r for r, one in pairs if one.reference and not one.hypothesis]),
        "loops": listed(
            [r for r, one in pairs if loop(one.hypothesis) and not loop(one.reference)]
        ),
        "runaways": listed([r for r, one in pairs if _is_runaway(one)]),
        "unfinished": listed([r for r, _ in pairs if not r.finished]),
    }


def _is_runaway(one: UtteranceScore) -> bool:
    limit = RUNAWAY_FACTOR * one.words.reference + RUNAWAY_WORDS
    return len(one.hypothesis.split()) > limit
