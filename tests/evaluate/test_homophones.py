"""Homophones are forgiven, and nothing else is."""

from __future__ import annotations

import random
from functools import cache
from itertools import product

from tiny_audio.evaluate.homophones import are_homophones, forgive, groups
from tiny_audio.evaluate.records import Evaluation, Record
from tiny_audio.evaluate.wer import score


def evaluation(*pairs: tuple[str, str], rule: str = "whisper-en") -> Evaluation:
    records = tuple(
        Record(str(i), "set", reference, hypothesis, 1.0, 0.1)
        for i, (reference, hypothesis) in enumerate(pairs)
    )
    return Evaluation(records, score([r for r, _ in pairs], [h for _, h in pairs], rule))


def test_the_list_is_clean() -> None:
    seen = set()
    for phrase, numbers in groups().items():
        assert phrase == phrase.lower().strip()
        assert phrase
        assert 1 <= len(phrase.split()) <= 2
        seen |= numbers
    members = {n: {p for p, found in groups().items() if n in found} for n in seen}
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
    found = forgive(
        evaluation(
            ("Their house is too big.", "There house is two big"),
            ("They're here to stay", "their hear too stay"),
            ("He ate four.", "he 8 for"),
            ("You're right", "your write"),
            ("Everyone may be late", "every one maybe late"),
            ("its own", "it's own"),
        )
    )
    assert found.errors == 0
    assert found.wer == 0.0
    assert found.wer_before is not None
    assert found.wer_before > 0.4
    assert found.pairs["their", "there"] == 1
    assert found.pairs["they are", "their"] == 1
    assert found.pairs["too", "2"] == 1
    assert found.examples["too", "2"] == ["0"]


def test_what_sounds_different_stays_wrong() -> None:
    plain = evaluation(("the cat sat", "the hat sat down"), ("", "to two"), ("go", ""))
    found = forgive(plain)
    assert found.errors == found.errors_before == plain.score.words.errors
    assert not found.pairs


def test_equal_words_in_another_order_may_still_be_homophones() -> None:
    found = forgive(evaluation(("to two", "two to"), rule="basic"))
    assert found.errors == 0
    assert found.pairs.total() == 2


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
        plain = evaluation((" ".join(pair[0]), " ".join(pair[1])), rule="basic")
        assert forgive(plain).errors == slow(*pair)
