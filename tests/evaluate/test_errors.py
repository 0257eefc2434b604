"""Confusions are those of the alignments, homophones are forgiven, loops are found."""

import pytest

from tests.evaluate.helpers import evaluation
from tiny_audio.evaluate.errors import (
    confusions,
    hallucination,
    homophone_groups,
    homophones,
    loop,
    sound_alike,
)

RULE = "whisper-en"


def test_confusions_add_up_to_the_errors() -> None:
    texts = [("the cat sat", "the hat sat"), ("a cat", "a hat"), ("we go", "we go now")]
    scored = evaluation([*texts, ("the dog", "dog"), ("everyone came", "every one came")])
    words = scored.score.words
    found = [confusions(scored, kind) for kind in ("substitute", "delete", "insert")]
    totals = [words.substitutions, words.deletions, words.insertions]
    assert [sum(map(len, pairs.values())) for pairs in found] == totals
    assert next(iter(found[0].items())) == (("cat", "hat"), ["0", "1"])
    assert list(found[1]) == [("the", "")]
    assert ("", "now") in found[2]


def test_the_list_is_clean_and_its_relation_goes_through_no_third_word() -> None:
    members: dict[int, set[str]] = {}
    for phrase, numbers in homophone_groups().items():
        assert phrase == phrase.lower().strip() != ""
        for number in numbers:
            members.setdefault(number, set()).add(phrase)
    assert len(members) > 400
    assert all(len(group) > 1 for group in members.values())
    assert len({frozenset(group) for group in members.values()}) == len(members)
    alike = {("read", "red"): True, ("read", "reed"): True, ("red", "reed"): False}
    assert {pair: sound_alike(*pair) for pair in alike} == alike


def test_words_and_phrases_that_sound_alike_are_forgiven_under_the_rule() -> None:
    texts = [
        ("Their house is too big.", "There house is two big"),
        ("They're tall", "their tall"),
        ("He ate four.", "he 8 for"),
        ("You're tall", "your tall"),
        ("Everyone knows", "every one knows"),
        ("its own", "it's own"),
    ]
    errors, pairs = homophones(evaluation(texts, RULE))
    assert errors == 0
    assert pairs["their", "there"] == ["0"]
    assert pairs["they are", "their"] == ["1"]
    assert pairs["everyone", "every one"] == ["4"]


def test_what_sounds_different_stays_wrong() -> None:
    plain = evaluation([("the cat sat", "the hat sat down"), ("", "to two"), ("go", "")], RULE)
    assert homophones(plain) == (plain.score.words.errors, {})
    errors, pairs = homophones(evaluation([("to the sea now", "two a see")], RULE))
    assert (errors, set(pairs)) == (2, {("to", "2"), ("sea", "see")})


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("thank you thank you thank you thank you", "thank you"),
        ("so i said and so on and so on and so on and so on", "and so on"),
        ("no no no no no no", "no"),
        ("no no no no", None),
        ("no no no no no nobody", None),
        ("it was what it was and what it was it was", None),
        ("ha" * 12, "ha"),
        ("哈" * 20, "哈"),
        ("100000", None),
        ("", None),
        ("a b c d e f g h i j " * 4, "a b c d e f g h i j"),
        ("x " + "a b " * 20_000, "a b"),
    ],
)
def test_loops_are_phrases_that_repeat(text: str, phrase: str | None) -> None:
    assert loop(text.strip()) == phrase


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
    assert found["nonspeech"] == {
        "utterances": 2, "minutes": 0.5, "insertions": 3, "insertions_per_minute": 6.0,
        "answered": {"count": 1, "examples": ["0"]},
    }  # fmt: skip
    kinds = {kind: found[kind]["examples"] for kind in ("empty", "loops", "runaways", "unfinished")}
    assert kinds == {"empty": ["2"], "loops": ["3"], "runaways": ["3"], "unfinished": ["6"]}
