"""Labels hold what was said: notes go, words stay, and nothing is cut out of a word."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_audio.errors import ConfigError, LabelRejected
from tiny_audio.text.labels import HESITATIONS, SEGMENT_MARKERS, SOUNDS, LabelRules, case_for

KEEP = LabelRules()
BARE = LabelRules(case="lower", punctuation="strip")
EVERY = [
    LabelRules(case, punctuation, allow_empty=True)
    for case in ("keep", "lower", "lower_capitals")
    for punctuation in ("keep", "strip")
]
# Text that looks like what the rules look for, in pieces that can meet in any order.
PIECES = st.sampled_from(
    [
        *"<>[](){}%'’.,:;!?-_/& \t\n\u00ad\u200b\u0301İΣßé😀♪5aANn",
        *"noise laughter um <COMMA> <PERIOD> percent 's n't 't <noise> ignore_time hello".split(),
        "[door slams]",
    ]
)
TEXT = st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join))


@pytest.mark.parametrize(
    ("text", "kept", "bare"),
    [
        ("  Hello,\tworld!  ", "Hello, world!", "hello world"),
        ("it’s “fine”", 'it\'s "fine"', "it's fine"),
        ("the 'quoted' word's end'", "the 'quoted' word's end'", "the quoted word's end"),
        ("up 5%.", "up 5 percent.", "up 5 percent"),
        ("UP FIVE % NOW", "UP FIVE PERCENT NOW", "up five percent now"),
        ("5%-10%", "5 percent-10 percent", "5 percent 10 percent"),
        ("well-known and/or", "well-known and/or", "well known and or"),
        ("3.5 of 1,000 at 10:30, .5", "3.5 of 1,000 at 10:30, .5", "3.5 of 1,000 at 10:30 .5"),
        ("R&B for $5", "R&B for $5", "r&b for $5"),
        ("YES <COMMA> I AM <PERIOD>", "YES, I AM.", "yes i am"),
        ("WHO <QUESTIONMARK> ME <EXCLAMATIONPOINT>", "WHO? ME!", "who me"),
        ("it 's what we 're in", "it's what we're in", "it's what we're in"),
        ("so i don 't", "so i don't", "so i don't"),
        ("hello [laughter], world", "hello, world", "hello world"),
        ("<noise> hello {breath} (inaudible) <unk>", "hello", "hello"),
        ("hello<noise>world", "hello world", "hello world"),
        ("[Background Noise] a [vocalized-noise] b", "a b", "a b"),
        ("[lau[noise]ghter] a [door slams] b <spk1> c", "a b c", "a b c"),
        ("he said [laughter-yeah] loudly", "he said yeah loudly", "he said yeah loudly"),
        ("♪ happy days ♪", "happy days", "happy days"),
        ("cafe\u0301", "café", "café"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth", "softhyphen zerowidth"),
    ],
)
def test_transcript_becomes_label(text, kept, bare):
    assert KEEP.clean(text) == kept
    assert BARE.clean(text) == bare


@pytest.mark.parametrize(
    "text",
    [
        "ignore_time_segment_in_scoringly",
        "exhume the umbrella, huh",
        "um well uh yes",
        "a noisemaker, silently unknown",
        "5 < 6 and 7 > 3",
        "(he was there)",
        "{F uh } yes",
        "th[e] end",
        "[this is a longer remark than any transcriber's note]",
        "gap_inter_segment_gap_s",
    ],
)
def test_words_that_only_look_like_markers_stay(text):
    assert KEEP.clean(text) == text


MARKER_LABELS = "ignore_time_segment_in_scoring <inter_segment_gap> <NOISE> <MUSIC> <SIL> <OTHER>"


@pytest.mark.parametrize("text", [*MARKER_LABELS.split(), "inter_segment_gap ", "<noise> <music>"])
def test_marker_labels_are_rejected_even_where_empty_ones_are_not(text):
    for rules in (KEEP, BARE, *EVERY):
        with pytest.raises(LabelRejected) as rejected:
            rules.clean(text)
        assert rejected.value.reason == "marker_label"


@pytest.mark.parametrize("text", ["", "  \n", "[laughter]", "...", "<PERIOD>", "\u200b"])
def test_labels_without_words(text):
    with pytest.raises(LabelRejected) as rejected:
        KEEP.clean(text)
    assert rejected.value.reason == "empty_label"
    assert LabelRules(allow_empty=True).clean(text) == ""


@pytest.mark.parametrize("rules", EVERY, ids=lambda rules: f"{rules.case}-{rules.punctuation}")
@given(text=TEXT)
def test_cleaning_twice_changes_nothing(rules, text):
    try:
        once = rules.clean(text)
    except LabelRejected:  # a marker and nothing else
        return
    assert rules.clean(once) == once
    assert once == " ".join(once.split()) == unicodedata.normalize("NFC", once)
    once.encode()  # no lone surrogate


WORD = st.text(st.characters(categories=["Ll"], max_codepoint=0x24F), min_size=1, max_size=12)
MARKERS = SOUNDS | HESITATIONS | SEGMENT_MARKERS


@given(words=st.lists(WORD | st.sampled_from(sorted(SOUNDS | HESITATIONS)), min_size=1))
def test_plain_words_survive_in_order(words):
    words = unicodedata.normalize("NFC", " ".join(words)).split()
    for rules in EVERY:
        assert rules.clean(" ".join(words)) == " ".join(words).lower()


@given(
    words=st.lists(WORD, min_size=2, max_size=5), note=st.sampled_from(sorted(SOUNDS | HESITATIONS))
)
def test_a_note_in_any_bracket_leaves_only_the_words(words, note):
    words = unicodedata.normalize("NFC", " ".join(words)).split()
    for left, right in ("<>", "[]", "()", "{}"):
        text = f" {left}{note.upper()}{right} ".join(words)
        assert KEEP.clean(text) == " ".join(words)


@given(marker=st.sampled_from(sorted(MARKERS)), before=WORD, after=WORD)
def test_a_marker_inside_a_word_is_part_of_the_word(marker, before, after):
    word = unicodedata.normalize("NFC", before + marker + after)
    assert KEEP.clean(word) == word


def test_only_labels_in_capitals_are_lowered_and_short_ones_stay() -> None:
    clean = LabelRules("lower_capitals").clean
    assert clean("WE CALL IT BEAR, <noise> 5 %") == "we call it bear, 5 percent"
    assert clean("TREES") == "trees"
    for text in ("OK", "USA", "I", "U.S.A.", "NASA said so", "He said NO NO NO", "10 4"):
        assert clean(text) == text


@pytest.mark.parametrize(
    ("capitals", "case"), [(0, "keep"), (9, "keep"), (10, "lower_capitals"), (90, "lower")]
)
def test_auto_lowers_a_set_by_its_share_of_capitals(capitals: int, case: str) -> None:
    labels = ["WE CALL"] * capitals + ["We call Tom."] * (100 - capitals) + ["OK", "42"] * 50
    assert case_for(labels) == (case, capitals / 100)


def test_each_set_has_its_own_case() -> None:
    rules = LabelRules("auto", case_of={"loud": "lower"})
    assert rules.clean("OK GO", "loud") == "ok go"
    assert rules.clean("OK GO", "other") == "OK GO"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"case": "upper"}, r"labels\.case .*keep, lower"),
        ({"case_of": {"a": "auto"}}, r"labels\.case_of\.a is 'auto'"),
        ({"punctuation": "drop"}, r"labels\.punctuation .*keep, strip"),
    ],
)
def test_unknown_rules_are_refused_by_name(rules, said):
    with pytest.raises(ConfigError, match=said):
        LabelRules(**rules)
