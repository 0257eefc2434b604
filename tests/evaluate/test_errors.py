"""Confusions are those of the alignments, homophones are forgiven, loops are found."""

from __future__ import annotations

import random
from functools import cache
from itertools import product

import pytest

from tests.evaluate.helpers import evaluation
from tiny_audio.evaluate.errors import (
    confusions,
    forgive_homophones,
    hallucination,
    homophone_groups,
    loop,
    proper_names,
    word_classes,
)
from tiny_audio.evaluate.wer import Counts

RULE = "whisper-en"

# ----------------------------------------------------------------------------------- homophones


def are_homophones(one: str, other: str) -> bool:
    groups = homophone_groups()
    return one != other and bool(groups.get(one, frozenset()) & groups.get(other, frozenset()))


def test_the_list_is_clean() -> None:
    seen = set()
    for phrase, numbers in homophone_groups().items():
        assert phrase == phrase.lower().strip()
        assert phrase
        assert 1 <= len(phrase.split()) <= 2
        seen |= numbers
    members = {n: {p for p, found in homophone_groups().items() if n in found} for n in seen}
    assert len(members) > 400
    assert all(len(group) > 1 for group in members.values())
    assert len({frozenset(group) for group in members.values()}) == len(members)


def test_the_relation_is_not_carried_on_through_a_third_word() -> None:
    assert are_homophones("read", "red")
    assert are_homophones("read", "reed")
    assert not are_homophones("red", "reed")
    assert not are_homophones("red", "red")
    assert not are_homophones("affect", "effect")


def test_classic_confusions_are_forgiven_under_the_rule() -> None:
    errors, pairs = forgive_homophones(
        evaluation(
            [
                ("Their house is too big.", "There house is two big"),
                ("They're here to stay", "their hear too stay"),
                ("He ate four.", "he 8 for"),
                ("You're right", "your write"),
                ("Everyone may be late", "every one maybe late"),
                ("its own", "it's own"),
            ],
            RULE,
        )
    )
    assert errors == 0
    assert len(pairs["their", "there"]) == 1
    assert len(pairs["they are", "their"]) == 1
    assert len(pairs["too", "2"]) == 1
    assert pairs["too", "2"] == ["0"]


def test_what_sounds_different_stays_wrong() -> None:
    plain = evaluation([("the cat sat", "the hat sat down"), ("", "to two"), ("go", "")], RULE)
    errors, pairs = forgive_homophones(plain)
    assert errors == plain.score.words.errors
    assert not pairs


def test_equal_words_in_another_order_may_still_be_homophones() -> None:
    errors, pairs = forgive_homophones(evaluation([("to two", "two to")]))
    assert errors == 0
    assert sum(map(len, pairs.values())) == 2


def slow(reference: tuple[str, ...], hypothesis: tuple[str, ...]) -> int:
    """The least number of errors, by trying every step at every place."""

    @cache
    def cost(i: int, j: int) -> int:
        if i == len(reference) and j == len(hypothesis):
            return 0
        ways = []
        if i < len(reference):
            ways.append(1 + cost(i + 1, j))
        if j < len(hypothesis):
            ways.append(1 + cost(i, j + 1))
        if i < len(reference) and j < len(hypothesis):
            ways.append((reference[i] != hypothesis[j]) + cost(i + 1, j + 1))
        for a, b in product((1, 2), (1, 2)):
            said, heard = reference[i : i + a], hypothesis[j : j + b]
            if (
                len(said) == a
                and len(heard) == b
                and are_homophones(" ".join(said), " ".join(heard))
            ):
                ways.append(cost(i + a, j + b))
        return min(ways)

    return cost(0, 0)


def test_the_fewest_errors_are_found() -> None:
    rng = random.Random(0)
    words = ["to", "two", "may", "be", "maybe", "there", "they", "are", "cat"]
    for _ in range(300):
        pair = [tuple(rng.choices(words, k=rng.randrange(1, 7))) for _ in range(2)]
        plain = evaluation([(" ".join(pair[0]), " ".join(pair[1]))])
        assert forgive_homophones(plain)[0] == slow(*pair)


# ----------------------------------------------------------------------------------- confusions


def test_confusions_add_up_to_the_errors() -> None:
    scored = evaluation(
        [
            ("the cat sat", "the hat sat"),
            ("a cat", "a hat"),
            ("we go", "we go now"),
            ("the dog", "dog"),
            ("everyone came", "every one came"),
        ]
    )
    found = confusions(scored)
    words = scored.score.words
    for kind, total in (
        ("substitute", words.substitutions),
        ("delete", words.deletions),
        ("insert", words.insertions),
    ):
        assert sum(map(len, found[kind].values())) == total
    assert next(iter(found["substitute"].items())) == (("cat", "hat"), ["0", "1"])
    assert list(found["delete"]) == [("the", "")]
    assert ("", "now") in found["insert"]
    assert list(found["boundary"]) == [("everyone", "every one")]


def test_kinds_of_words() -> None:
    scored = evaluation(
        [
            ("We met Anna in 1999.", "we met hannah in 1998"),
            ("Then Anna left the Paris train", "then anna left paris train 7"),
            ("Paris is far", "paris is far"),
        ],
        RULE,
    )
    found = word_classes(scored)
    assert found["names"] == Counts(hits=3, substitutions=1)
    assert found["numbers"] == Counts(substitutions=1, insertions=1)
    assert found["function words"] == Counts(hits=4, deletions=1)
    bands = [counts for name, counts in found.items() if "seen" in name]
    assert sum(bands, Counts()) == scored.score.words
    assert found["never seen"] == Counts(insertions=1)


def test_frequencies_may_come_from_elsewhere() -> None:
    scored = evaluation([("rare words here", "rare swords here")])
    found = word_classes(scored, {"words": 100, "here": 3})
    assert found["seen 20 times or more"] == Counts(substitutions=1)
    assert found["seen 2 to 4 times"] == Counts(hits=1)
    assert found["never seen"] == Counts(hits=1)


def test_names_need_a_capital_within_a_sentence() -> None:
    texts = ["Tom saw Ann's cat. Then he left.", "I think Then is late", "ALL CAPITALS HERE"]
    assert proper_names([*texts, "no capitals"]) == {"ann", "then"}
    assert proper_names([*texts, "and then, Ann?"]) == {"ann"}
    assert proper_names(["he met O'Neil, and Jean-Luc (Mr. Smith)"]) == {
        "o'neil", "jean-luc", "mr",
    }  # fmt: skip


# ------------------------------------------------------------------------------- hallucination


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("thank you thank you thank you thank you", "thank you"),
        ("so i said and so on and so on and so on and so on", "and so on"),
        ("no no no no no no", "no"),
        ("no no no no", None),
        ("it was what it was and what it was it was", None),
        ("ha" * 12, "ha"),
        ("哈" * 20, "哈"),
        ("100000", None),
        ("", None),
        ("a b c d e f g h i j " * 4, "a b c d e f g h i j"),
    ],
)
def test_loops_are_phrases_said_over_and_over(text: str, phrase: str | None) -> None:
    found = loop(text)
    assert (found is None) == (phrase is None)
    if phrase is not None and found is not None:
        assert sorted(found.split()) == sorted(phrase.split())


def test_hallucinations_are_counted_by_kind() -> None:
    whole = evaluation(
        [
            ("", "you are welcome"),  # on noise
            ("", ""),
            ("hello there", ""),  # empty
            ("one two", "thank you thank you thank you thank you thank you"),  # loop, runaway
            ("go go go go go go go", "go go go go go go go"),  # the speaker's own loop
            ("a cat", "the dog"),  # an error, nothing else
            ("a cat", "a cat"),
        ],
        duration=[20.0, 10.0, *[3.0] * 5],
        finished=[True] * 6 + [False],
    )
    found = hallucination(whole)
    silent = found["nonspeech"]
    assert (silent["utterances"], silent["minutes"], silent["insertions"]) == (2, 0.5, 3)
    assert silent["insertions_per_minute"] == 6.0
    assert silent["answered"]["examples"] == ["0"]
    kinds = {kind: found[kind]["examples"] for kind in ("empty", "loops", "runaways", "unfinished")}
    assert kinds == {"empty": ["2"], "loops": ["3"], "runaways": ["3"], "unfinished": ["6"]}
    assert found["loops"]["share"] == pytest.approx(1 / 7)
