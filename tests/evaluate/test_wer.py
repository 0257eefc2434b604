"""Word errors equal an independent edit distance, whole or in parts."""

import pickle
import random

import pytest

from tiny_audio.errors import ConfigError
from tiny_audio.evaluate.wer import Counts, score
from tiny_audio.text.scoring import ScoringRule

AS_IS = ScoringRule("as-is", 1, str)
VOCABULARY = ["a", "b", "the", "right", "over", "all", "overall", "o'clock", "5%", "naïve", "日本"]


def edit_distance(left, right):
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(0)

    def sentence():
        return " ".join(rng.choices(VOCABULARY, k=rng.choice([0, 0, 1, 2, 3, 5, 8])))

    return [(sentence(), sentence()) for _ in range(2_000)]


@pytest.fixture(scope="module")
def whole(pairs):
    return score([r for r, _ in pairs], [h for _, h in pairs], AS_IS)


def test_equals_an_independent_edit_distance(pairs, whole):
    for (reference, hypothesis), one in zip(pairs, whole.utterances, strict=True):
        left, right = reference.split(), hypothesis.split()
        assert one.words.errors == edit_distance(left, right)
        assert one.words.reference == len(left)
        assert one.words.hits + one.words.substitutions + one.words.insertions == len(right)
        assert one.characters.errors == edit_distance(reference, hypothesis)
        assert one.characters.reference == len(reference)
    total = sum(edit_distance(r.split(), h.split()) for r, h in pairs)
    assert whole.wer == total / sum(len(r.split()) for r, _ in pairs)


def test_the_alignment_spells_both_texts_and_agrees_with_the_counts(whole):
    for one in whole.utterances:
        assert [s.reference for s in one.alignment if s.op != "insert"] == one.reference.split()
        assert [s.hypothesis for s in one.alignment if s.op != "delete"] == one.hypothesis.split()
        operations = [step.op for step in one.alignment]
        kinds = ("equal", "substitute", "delete", "insert")
        assert one.words == Counts(*(operations.count(kind) for kind in kinds))
        for step in one.alignment:
            assert (step.reference == step.hypothesis) == (step.op == "equal")
            assert (not step.reference) == (step.op == "insert")
            assert (not step.hypothesis) == (step.op == "delete")


def test_parts_add_up_to_the_whole(pairs, whole):
    chunks = [zip(*pairs[i : i + 300], strict=True) for i in range(0, len(pairs), 300)]
    parts = [score(*chunk, AS_IS) for chunk in chunks]
    assert sum(parts[1:], parts[0]) == whole
    assert pickle.loads(pickle.dumps(parts[0])) == parts[0]


def test_known_example():
    result = score(
        ["The cat sat on the mat.", "[noise]", "Um, yes", "[noise]", "once more"],
        ["the cat sit on the mat today", "hello there", "Uh.", "", ""],
        "whisper-en",
    )
    assert result.rule == "whisper-en/1"
    assert result.words == Counts(5, 1, 3, 3)
    assert (result.words.reference, result.wer, result.sentence_error_rate) == (9, 7 / 9, 4 / 5)
    assert [one.words.rate for one in result.utterances] == [2 / 6, None, 1.0, None, 1.0]
    silent = score(["", "[music]"], ["", "Thank you."], "whisper-en")
    assert (silent.wer, silent.cer, silent.sentence_error_rate) == (None, None, 0.5)
    assert silent.words.insertions == 2
    nothing = score([], [], "whisper-en")
    assert (nothing.wer, nothing.sentence_error_rate) == (None, None)
    assert nothing + silent == silent


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ConfigError, match=r"basic/1 and whisper-en/1"):
        score(["a"], ["a"], "whisper-en") + score(["a"], ["a"], "basic")
    with pytest.raises(ValueError, match="shorter"):
        score(["a", "b"], ["a"], "basic")
