"""Intervals hold the true figure as often as they say, and come out the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tiny_audio.evaluate.bootstrap import FIGURES, bootstrap, group_sums, intervals
from tiny_audio.evaluate.records import Evaluation, Record, assemble
from tiny_audio.evaluate.wer import score


def evaluation(speakers: list[str | None], seed: int = 0) -> Evaluation:
    """An utterance of ten words for each speaker, some of them wrong."""
    rng = np.random.default_rng(seed)
    references = ["a b c d e f g h i j"] * len(speakers)
    hypotheses = [" ".join(w for w in r.split() if rng.random() > 0.2) for r in references]
    records = [
        Record(str(i), "s", r, h, 2.0, 0.1, speaker=who)
        for i, (who, r, h) in enumerate(zip(speakers, references, hypotheses, strict=True))
    ]
    scored = score(references, hypotheses, "basic")
    return assemble(records, scored.utterances, scored.rule)


def covered(units: int, trials: int, spread: float, seed: int) -> float:
    """Share of simulated sets whose interval holds the true WER.

    Each unit (a speaker) has an error rate of its own around the true 0.2, and says between 20
    and 60 words.
    """
    rng = np.random.default_rng(seed)
    truth, hits = 0.2, 0
    concentration = 1 / spread
    for _ in range(trials):
        words = rng.integers(20, 61, size=units).astype(float)
        rates = rng.beta(truth * concentration, (1 - truth) * concentration, size=units)
        errors = rng.binomial(words.astype(int), rates).astype(float)
        (found,) = intervals(errors[:, None], words[:, None], resamples=400, level=0.95, rng=rng)
        assert found is not None
        hits += found[0] <= truth <= found[1]
    return hits / trials


@pytest.mark.parametrize(("units", "spread"), [(20, 0.05), (60, 0.05), (300, 0.01)])
def test_intervals_cover_the_true_wer_in_95_of_100_sets(units: int, spread: float) -> None:
    assert 0.93 <= covered(units, trials=1500, spread=spread, seed=units) <= 0.97


def test_drawing_utterances_of_few_speakers_would_cover_less() -> None:
    """Why speakers are drawn: with 20 of 30 utterances each, one by one is far too sure."""
    rng = np.random.default_rng(0)
    hits = {"speaker": 0, "utterance": 0}
    for _ in range(300):
        rates = np.repeat(rng.beta(4, 16, size=20), 30)
        words = np.full(600, 10.0)
        errors = rng.binomial(10, rates).astype(float)
        speakers = np.repeat(np.arange(20), 30)
        for kind, labels in (("speaker", speakers), ("utterance", np.arange(600))):
            units = group_sums(np.stack([errors, words], axis=1), labels.tolist())
            (found,) = intervals(units[:, :1], units[:, 1:], resamples=200, level=0.95, rng=rng)
            assert found is not None
            hits[kind] += found[0] <= 0.2 <= found[1]
    assert hits["speaker"] / 300 > 0.9
    assert hits["utterance"] / 300 < 0.75


def test_the_same_seed_gives_the_same_intervals_and_each_holds_its_figure() -> None:
    found = evaluation([f"s{i % 12}" for i in range(120)])
    drawn = bootstrap(found)
    assert drawn == bootstrap(found)
    assert drawn != bootstrap(found, seed=1)
    assert set(drawn.intervals) == set(FIGURES)
    values = {
        "wer": found.score.wer, "cer": found.score.cer, "rtfx": found.rtfx,
        "sentence_error_rate": found.score.sentence_error_rate,
        "deletion_rate": found.score.deletions / found.score.reference_words,
    }  # fmt: skip
    for name, value in values.items():
        interval = drawn.intervals[name]
        assert interval is not None
        assert value is not None
        assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9


def test_more_utterances_make_it_surer() -> None:
    def width(count: int) -> float:
        interval = bootstrap(evaluation([None] * count)).intervals["wer"]
        assert interval is not None
        return interval[1] - interval[0]

    assert width(40) / width(640) == pytest.approx(4, rel=0.35)


@pytest.mark.parametrize(
    ("speakers", "unit", "units"),
    [
        ([None] * 6, "utterance", 6),
        (["a", "b", "c"] * 2, "speaker", 3),
        (["a", "a", "a", "b", None, None], "speaker or utterance", 4),
        (["a"] * 6, "utterance", 6),
    ],
)
def test_speakers_are_drawn_where_they_are_known(
    speakers: list[str | None], unit: str, units: int
) -> None:
    drawn = bootstrap(evaluation(speakers))
    assert (drawn.unit, drawn.units) == (unit, units)


def test_speakers_of_two_sources_are_two() -> None:
    found = evaluation(["a"] * 4)
    records = tuple(replace(r, source=f"s{i % 2}") for i, r in enumerate(found.records))
    assert bootstrap(replace(found, records=records)).units == 2


def test_without_words_there_is_no_wer_to_be_sure_of() -> None:
    scored = score(["", ""], ["noise", ""], "basic")
    records = [Record(str(i), "s", "", h, 1.0, 0.1) for i, h in enumerate(["noise", ""])]
    drawn = bootstrap(assemble(records, scored.utterances, scored.rule))
    assert drawn.intervals["wer"] is None
    assert drawn.intervals["cer"] is None
    assert drawn.intervals["sentence_error_rate"] is not None
    assert bootstrap(assemble([], [], "basic/1")).intervals["wer"] is None


def test_one_utterance_says_nothing_of_how_sure_its_figure_is() -> None:
    assert set(bootstrap(evaluation([None])).intervals.values()) == {None}
