"""Scoring rules equal transformers' normalisers, and no rule cuts inside a word."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from tiny_audio.errors import ConfigError
from tiny_audio.text.scoring import SCORING, get_rule, require_same_rule

STOCK = {
    "whisper-en": EnglishTextNormalizer({}),
    "basic": BasicTextNormalizer(),
    "characters": BasicTextNormalizer(split_letters=True),
}


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Let's go, Mr. Smith!", "let us go mister smith"),
        ("I won't, she can't, y'all should've", "i will not she can not you all should have"),
        ("um, he was uh twenty-one [laughter]", "he was 21"),
        ("$20 million is 5 percent", "$20000000 is 5%"),
        ("The umbrella, exhumed; hmmm", "the umbrella exhumed hmmm"),
        ("a mummer's drive", "a mummer is drive"),
        ("colour", "colour"),
    ],
)
def test_whisper_en_cases(text, english):
    assert get_rule("whisper-en").normalise(text) == english


WORD = st.text(st.sampled_from("abcdefgz019.,$%½²-' <[(>])"), max_size=9)
TEXT = st.text(max_size=200) | st.lists(WORD, max_size=9).map(" ".join)


@pytest.mark.parametrize("name", SCORING)
@given(text=TEXT)
def test_equals_the_stock_normaliser(name, text):
    assert SCORING[name].normalise(text) == STOCK[name](text).strip()


@pytest.mark.parametrize("text", ["1" * 9000, "1," * 9000, "²" * 9000, "one " * 9000, "9" * 4301])
def test_a_loop_of_digits_is_scored_not_an_error(text):
    assert get_rule("whisper-en").normalise(text)


def test_rules_are_named_and_versioned_and_have_a_figure_that_counts():
    assert {name: (rule.id, rule.primary) for name, rule in SCORING.items()} == {
        "whisper-en": ("whisper-en/1", "wer"),
        "basic": ("basic/1", "cer"),
        "characters": ("characters/1", "cer"),
    }
    assert get_rule("characters").normalise("你好,世界") == "你 好 世 界"
    assert get_rule("basic/1") is get_rule("basic")
    with pytest.raises(ConfigError, match="basic, characters, whisper-en"):
        get_rule("whisper")


def test_scores_under_two_rules_are_not_compared():
    require_same_rule(["basic/1", "basic/1"])
    require_same_rule([])
    with pytest.raises(ConfigError, match=r"basic/1 and whisper-en/1 cannot be compared"):
        require_same_rule(["basic/1", "whisper-en/1", "basic/1"])


def test_importing_the_rules_imports_no_heavy_library():
    code = (
        "import sys, tiny_audio.text.scoring, tiny_audio.text.prompt, tiny_audio.text.labels;"
        "import tiny_audio.evaluate.wer;"
        "print([m for m in ('torch', 'transformers', 'jiwer') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
