"""What in a label was probably not said."""

from __future__ import annotations

from collections import Counter

import pytest

from tiny_audio.data.markers import Markers, Policy, odd_characters
from tiny_audio.text.labels import LabelRules

CLEAN = LabelRules().clean


def kinds(label: str) -> set[str]:
    markers = Markers()
    markers.add("u", label, label)
    return {found.kind for found in markers.left.values()}


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("well (laughs softly) yes", "bracket"),
        ("a < b", "bracket"),
        ("what???", "repeated sign"),
        ("wait .....", "repeated sign"),
        ("noooooo", "repeated letter"),
        ("the the the the cat", "repeated word"),
        ("nan", "placeholder"),
        ("he said xxx to me", "placeholder"),
        ("fish &amp; chips", "markup"),
        ("see https://example.org/x now", "markup"),
        ("caf\N{REPLACEMENT CHARACTER}", "encoding"),
        ("cafÃ© au lait", "encoding"),
    ],
)
def test_suspicious(label: str, kind: str) -> None:
    assert kind in kinds(label)


@pytest.mark.parametrize(
    "label",
    [
        "Plain English, isn't it?",
        "and then ... nothing",
        "1,000,000 people",
        "nan's house is null and void",
        "that that that is is",
        "IT'S AN EMAIL FROM BOB & ALICE",
        "ÉCOLE à côté, großes Haus",
        "今日はいい天気ですね",
        "well-known co-op",
    ],
)
def test_what_people_say_is_not_suspicious(label: str) -> None:
    assert kinds(label) == set()


def test_what_cleaning_removes_is_told_apart_from_what_it_leaves() -> None:
    markers = Markers()
    for n, transcript in enumerate(["[noise] hello", "hello <unk> you", "so (as if) it were"]):
        markers.add(str(n), transcript, CLEAN(transcript))
    report = markers.summary()
    assert report["removed_by_cleaning"] == {"[noise]": 1, "<unk>": 1}
    assert [m["marker"] for m in report["left_in_labels"]] == ["(as if)"]
    assert report["left_in_labels"][0]["examples"] == [{"id": "2", "text": "so (as if) it were"}]
    assert report["utterances"] == 1


def test_the_number_of_different_markers_is_bounded() -> None:
    markers = Markers()
    for n in range(2 * Markers.MOST):
        markers.add(str(n), f"[m{n}] (n{n})", f"(n{n})")
    assert len(markers.left) == len(markers.removed) == Markers.MOST
    assert markers.utterances_left == 2 * Markers.MOST


def test_odd_characters_are_signs_and_rare_letters() -> None:
    text = "plain words, isn't it? " * 2000 + "été " * 2000 + "ŧ € _"
    assert set(odd_characters(Counter(text))) == {"ŧ", "€", "_"}


def test_policy() -> None:
    policy = Policy()
    for label in ["ALL LOUD", "all quiet", "Some of both, really.", "3 cats", "I"]:
        policy.add(label)
    found = policy.summary()
    assert found["case"] == {"capitals": 1, "lower case": 2, "mixed case": 1}
    assert (found["punctuated"], found["with_digits"], found["labels"]) == (1, 1, 5)
