"""Confusions are those of the alignments, and kinds of words are told apart."""

from __future__ import annotations

from tests.evaluate.test_homophones import evaluation
from tiny_audio.evaluate.confusions import confusions, proper_names, word_classes
from tiny_audio.evaluate.wer import Counts


def test_confusions_add_up_to_the_errors() -> None:
    scored = evaluation(
        ("the cat sat", "the hat sat"),
        ("a cat", "a hat"),
        ("we go", "we go now"),
        ("the dog", "dog"),
        ("everyone came", "every one came"),
        rule="basic",
    )
    found = confusions(scored)
    words = scored.score.words
    for kind, total in (
        (found.substitutions, words.substitutions),
        (found.deletions, words.deletions),
        (found.insertions, words.insertions),
    ):
        assert sum(tally.count for tally in kind.values()) == total
    first = next(iter(found.substitutions.items()))
    assert first[0] == ("cat", "hat")
    assert (first[1].count, list(first[1].ids)) == (2, ["0", "1"])
    assert list(found.deletions) == ["the"]
    assert "now" in found.insertions
    assert list(found.boundaries) == [("everyone", "every one")]


def test_kinds_of_words() -> None:
    scored = evaluation(
        ("We met Anna in 1999.", "we met hannah in 1998"),
        ("Then Anna left the Paris train", "then anna left paris train 7"),
        ("Paris is far", "paris is far"),
    )
    found = word_classes(scored)
    assert found["names"] == Counts(hits=3, substitutions=1)
    assert found["numbers"] == Counts(substitutions=1, insertions=1)
    assert found["function words"] == Counts(hits=4, deletions=1)
    bands = [counts for name, counts in found.items() if "seen" in name]
    assert sum(bands, Counts()) == scored.score.words
    assert found["never seen"] == Counts(insertions=1)


def test_frequencies_may_come_from_elsewhere() -> None:
    scored = evaluation(("rare words here", "rare swords here"), rule="basic")
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
