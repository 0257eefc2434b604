"""Breakdowns add up, hallucinations are told from errors, and calibration is what it says."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.infer.helpers import tones
from tiny_audio.errors import DataError
from tiny_audio.evaluate.breakdown import BREAKDOWNS, bin_name, breakdown, parts
from tiny_audio.evaluate.calibration import calibration
from tiny_audio.evaluate.command import rescore_command
from tiny_audio.evaluate.hallucination import hallucination, loop
from tiny_audio.evaluate.records import Evaluation, Record, assemble
from tiny_audio.evaluate.snr import estimate_snr
from tiny_audio.evaluate.summary import summary
from tiny_audio.evaluate.wer import Counts, score

WORDS = "the cat sat on a mat and saw two old dogs run home".split()


def evaluation(pairs: list[tuple[str, str]], **columns: list[object]) -> Evaluation:
    """Records with these texts; `columns` gives further fields, one value a record."""
    scored = score([r for r, _ in pairs], [h for _, h in pairs], "basic")
    records = [
        replace(Record(str(i), "s", r, h, 3.0, 0.1), **{k: v[i] for k, v in columns.items()})
        for i, (r, h) in enumerate(pairs)
    ]
    return assemble(records, scored.utterances, scored.rule)


def random_evaluation(count: int, seed: int = 0) -> Evaluation:
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.choice([0, 3, 8, 15, 30]))
        pairs.append((" ".join(words), " ".join(w for w in words if rng.random() > 0.2)))
    return evaluation(
        pairs,
        duration=[rng.uniform(0.5, 40) for _ in pairs],
        speaker=[rng.choice(["ann", "bob", None]) for _ in pairs],
        snr=[rng.choice([None, rng.uniform(-10, 60)]) for _ in pairs],
        source=[rng.choice(["x", "y"]) for _ in pairs],
        set=[rng.choice(["u", "v", "w"]) for _ in pairs],
        logprob=[rng.choice([None, -rng.random()]) for _ in pairs],
    )


# ----------------------------------------------------------------------------------- breakdown


@pytest.mark.parametrize("kind", BREAKDOWNS)
def test_the_parts_add_up_to_the_whole(kind: str) -> None:
    whole = random_evaluation(200)
    found = parts(whole, kind)
    assert len(found) > 1
    assert sum((p.score.words for p in found.values()), Counts()) == whole.score.words
    ids = sorted(int(r.id) for p in found.values() for r in p.records)
    assert ids == list(range(200))
    rows = breakdown(whole, kind)
    assert list(rows) == list(found)
    assert sum(row["utterances"] for row in rows.values()) == 200


def test_failures_belong_to_no_part() -> None:
    whole = random_evaluation(10)
    failed = Record.failure("x", "s", "truncated")
    with_it = Evaluation((failed, *whole.records), whole.score)
    for kind in BREAKDOWNS:
        assert breakdown(with_it, kind) == breakdown(whole, kind)


@pytest.mark.parametrize(
    ("value", "name"),
    [(0.0, "under 2 s"), (2.0, "2 to 5 s"), (4.999, "2 to 5 s"), (5.0, "5 s and more")],
)
def test_a_bin_holds_its_lower_edge(value: float, name: str) -> None:
    assert bin_name(value, (2.0, 5.0), "s") == name


def test_bins_come_in_order_and_are_what_they_say() -> None:
    whole = random_evaluation(300)
    for name, part in parts(whole, "duration").items():
        lowest = {"under": 0.0}.get(name.split()[0]) or float(name.split()[0].replace("under", "0"))
        assert all(record.duration >= lowest for record in part.records)
    names = list(parts(whole, "duration"))
    assert names[0] == "under 2 s"
    assert names[-1] == "30 s and more"
    assert list(parts(whole, "snr"))[-1] == "unknown"
    assert list(parts(whole, "speaking_rate"))[-1] == "no words"


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


# --------------------------------------------------------------------------------- calibration


def test_ece_is_small_for_a_model_that_knows_and_large_for_one_that_boasts() -> None:
    rng = random.Random(0)
    chances = [rng.random() for _ in range(4000)]
    pairs = [("a b", "a b" if rng.random() < chance else "a c") for chance in chances]
    honest = calibration(evaluation(pairs, logprob=[float(np.log(c)) for c in chances]))
    boasting = calibration(evaluation(pairs, logprob=[-0.01] * len(pairs)))
    assert honest["ece"] < 0.03
    assert boasting["ece"] == pytest.approx(0.49, abs=0.03)
    assert honest["auroc"] == pytest.approx(5 / 6, abs=0.03)
    assert boasting["auroc"] == 0.5
    assert sum(row["utterances"] for row in honest["bins"]) == 4000


def test_ece_equals_the_definition() -> None:
    confidence = [0.95, 0.92, 0.55, 0.52, 1.0]
    right = [True, False, True, False, True]
    pairs = [("a", "a" if r else "b") for r in right]
    found = calibration(evaluation(pairs, logprob=[float(np.log(c)) for c in confidence]))
    high, low = abs(2 / 3 - (0.95 + 0.92 + 1.0) / 3), abs(1 / 2 - (0.55 + 0.52) / 2)
    assert found["ece"] == pytest.approx(3 / 5 * high + 2 / 5 * low)


def test_without_log_probabilities_there_is_no_calibration() -> None:
    found = calibration(evaluation([("a", "a")]))
    assert (found["utterances"], found["ece"], found["bins"]) == (0, None, [])


# ----------------------------------------------------------------------------------------- SNR


def test_noise_lowers_the_estimate_by_about_as_much_as_was_added() -> None:
    """On what the estimate assumes: speech whose amplitudes follow a Gamma distribution."""
    rng = np.random.default_rng(7)
    speech = rng.gamma(0.4, 1.0, 480_000) * rng.choice([-1.0, 1.0], 480_000)
    noise = rng.normal(size=480_000) * np.sqrt((speech**2).mean())
    for decibels in (0, 7, 15, 22, 30):
        mixed = (speech + noise * 10 ** (-decibels / 20)).astype(np.float32)
        assert estimate_snr(mixed) == pytest.approx(decibels, abs=1.0)


def test_silence_has_no_estimate_and_loudness_does_not_matter() -> None:
    assert estimate_snr(np.zeros(16_000, np.float32)) is None
    assert estimate_snr(np.zeros(0, np.float32)) is None
    (clip,) = tones([2.0])
    assert estimate_snr(clip) == estimate_snr(clip * np.float32(0.25))
    padded = np.concatenate([np.zeros(16_000, np.float32), clip])
    assert estimate_snr(padded) == estimate_snr(clip)


# ----------------------------------------------------------------------- summary and rescoring


def test_the_summary_is_json_and_has_every_figure() -> None:
    found = json.loads(json.dumps(summary(random_evaluation(60)), allow_nan=False))
    assert set(found["breakdown"]) == set(BREAKDOWNS)
    assert set(found["sets"]) == {"u", "v", "w"}
    for name in ("wer", "substitutions", "deletions", "insertions", "cer", "sentence_error_rate"):
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
    assert found["scoring"] == "basic/1"
    assert found["primary"] == "cer"


def test_a_set_without_a_reference_word_has_insertions_and_no_rates() -> None:
    found = summary(evaluation([("", "a b"), ("[noise]", "")]))
    assert found["wer"] is None
    assert found["cer"] is None
    assert found["insertion_rate"] is None
    assert found["intervals"]["wer"] is None
    assert found["insertions"] == 2
    assert found["sentence_error_rate"] == 0.5
    assert found["hallucination"]["nonspeech"]["insertions_per_minute"] == 20.0


def write(path: Path, whole: Evaluation) -> Path:
    path.write_text("".join(record.to_json() + "\n" for record in whole.records))
    return path


def test_rescoring_needs_no_model_and_writes_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = random_evaluation(50)
    file = write(tmp_path / "results.jsonl", whole)
    (again,) = rescore_command(tmp_path, scoring="basic", out=tmp_path / "a").values()
    assert again.score == whole.score
    rescore_command(file, scoring="whisper-en", out=tmp_path / "b")
    rules = [json.loads((tmp_path / n / "summary.json").read_text())["scoring"] for n in "ab"]
    assert rules == ["basic/1", "whisper-en/1"]
    assert "whisper-en/1" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        rescore_command(tmp_path / "nothing.jsonl", scoring="basic", out=None)


def test_a_thousand_utterances_are_rescored_in_two_seconds(tmp_path: Path) -> None:
    file = write(tmp_path / "results.jsonl", random_evaluation(1000))
    rescore_command(file, scoring="whisper-en", out=tmp_path / "warm")
    start = time.process_time()
    rescore_command(file, scoring="whisper-en", out=tmp_path / "out")
    assert time.process_time() - start < 2.0
