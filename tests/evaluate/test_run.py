"""What an evaluation writes is what the model said, and its figures are those of the pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.infer.helpers import tones
from tiny_audio.config import GenerationConfig
from tiny_audio.data.records import Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.evaluate.records import Evaluation, Record
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.wer import score
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.text.scoring import get_rule

SECONDS = [0.6, 2.0, 0.001, 1.1, 33.0, 0.9]
TEXTS = ["Hello there!", "nothing at all", "gone", "Mr. Smith's 2nd", "a long talk", "yes"]
RULE = get_rule("basic")
OPTIONS = GenerationConfig(tokens_per_second=4.0, min_tokens=6)


def some_utterances() -> list[Utterance | Reject]:
    clips = tones(SECONDS)
    utterances: list[Utterance | Reject] = [
        Utterance(str(i), clip, text, "set", speaker=f"s{i % 2}")
        for i, (clip, text) in enumerate(zip(clips, TEXTS, strict=True))
    ]
    utterances.insert(2, Reject("torn", "set", "truncated", "it is cut short"))
    return utterances


def run(recogniser: Recogniser, batch_seconds: float = 40.0) -> Evaluation:
    return evaluate(
        recogniser.model,
        some_utterances(),
        rule=RULE,
        batch_seconds=batch_seconds,
        max_utterances=4,
        generation=OPTIONS,
    )


def test_figures_are_those_of_the_pairs(recogniser: Recogniser) -> None:
    evaluation = run(recogniser)
    assert [record.id for record in evaluation.records] == ["0", "1", "torn", "2", "3", "4", "5"]
    good = [0, 1, 3, 4, 5]
    assert [record.reference for record in evaluation.scored] == [TEXTS[i] for i in good]
    assert [record.speaker for record in evaluation.scored] == [f"s{i % 2}" for i in good]
    assert evaluation.score == score(
        [record.reference for record in evaluation.scored],
        [record.hypothesis for record in evaluation.scored],
        RULE,
    )
    assert evaluation.failures == {"truncated": 1, "too_short": 1}
    assert evaluation.audio_seconds == pytest.approx(sum(SECONDS[i] for i in good), abs=1e-3)
    assert evaluation.rtfx is not None


def test_texts_are_those_of_transcribe(recogniser: Recogniser) -> None:
    clips = tones(SECONDS)
    evaluation = evaluate(
        recogniser.model,
        [Utterance("0", clips[1], "x", "set")],
        rule=RULE,
        batch_seconds=9.0,
        max_utterances=4,
        generation=GenerationConfig(),
    )
    assert evaluation.records[0].hypothesis == recogniser.transcribe(clips[1]).text


def test_batches_change_nothing(recogniser: Recogniser) -> None:
    one, other = run(recogniser, 1.0), run(recogniser, 300.0)
    assert one.score == other.score
    same = {"seconds": 0.0, "logprob": None}
    assert [replace(r, **same) for r in one.records] == [replace(r, **same) for r in other.records]


def test_training_goes_on_as_it_was(recogniser: Recogniser) -> None:
    quiet = run(recogniser)
    recogniser.model.train()
    try:
        assert run(recogniser).score == quiet.score
        assert recogniser.model.training
    finally:
        recogniser.model.eval()


def test_progress_sees_every_record_in_order(recogniser: Recogniser) -> None:
    seen: list[tuple[Record, int]] = []
    evaluation = evaluate(
        recogniser.model,
        some_utterances(),
        rule=RULE,
        batch_seconds=4.0,
        max_utterances=2,
        generation=OPTIONS,
        on_progress=lambda record, words: seen.append((record, words.errors)),
    )
    assert tuple(record for record, _ in seen) == evaluation.records
    errors = [count for _, count in seen]
    assert errors == sorted(errors)
    assert errors[-1] == evaluation.score.words.errors
