"""What an evaluation writes is what the model said, and its figures are those of the pairs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.infer.helpers import tones, write_wav
from tiny_audio.compose import compose
from tiny_audio.config import GenerationConfig
from tiny_audio.data import sources
from tiny_audio.data.records import Reject, Utterance
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.models import Options
from tiny_audio.evaluate.results import Evaluation, read_records
from tiny_audio.evaluate.run import evaluate, evaluate_command
from tiny_audio.evaluate.statistics import figures
from tiny_audio.evaluate.wer import score
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.text.scoring import get_rule

SECONDS = [0.6, 2.0, 0.001, 1.1, 33.0, 0.9]
TEXTS = ["Hello there!", "nothing at all", "gone", "Mr. Smith's 2nd", "a long talk", "yes"]
RULE = get_rule("basic")


def run(recogniser: Recogniser, batch_seconds: float = 40.0) -> Evaluation:
    utterances: list[Utterance | Reject] = [
        Utterance(str(i), clip, text, "set", speaker=f"s{i % 2}")
        for i, (clip, text) in enumerate(zip(tones(SECONDS), TEXTS, strict=True))
    ]
    utterances.insert(2, Reject("torn", "set", "truncated", "it is cut short"))
    return evaluate(
        recogniser.model,
        utterances,
        rule=RULE,
        batch_seconds=batch_seconds,
        max_utterances=4,
        generation=GenerationConfig(tokens_per_second=4.0),
    )


@pytest.fixture(scope="module")
def evaluated(recogniser: Recogniser) -> Evaluation:
    return run(recogniser)


def test_figures_are_those_of_the_pairs(recogniser: Recogniser, evaluated: Evaluation) -> None:
    assert [record.id for record in evaluated.records] == ["0", "1", "torn", "2", "3", "4", "5"]
    good, scored = [0, 1, 3, 4, 5], evaluated.scored
    assert [record.reference for record in scored] == [TEXTS[i] for i in good]
    assert [record.speaker for record in scored] == [f"s{i % 2}" for i in good]
    texts = ([record.reference for record in scored], [record.hypothesis for record in scored])
    assert evaluated.score == score(*texts, RULE)
    assert evaluated.failures == {"truncated": 1, "too_short": 1}
    assert evaluated.audio_seconds == pytest.approx(sum(SECONDS[i] for i in good), abs=1e-3)
    spent = sum(record.seconds for record in evaluated.records)
    assert evaluated.rtfx == pytest.approx(evaluated.audio_seconds / spent)
    assert scored[1].hypothesis == recogniser.transcribe(tones(SECONDS)[1]).text


def test_batches_change_nothing_and_training_goes_on(recogniser, evaluated):
    recogniser.model.train()
    try:
        other = run(recogniser, 1.0)
        assert recogniser.model.training
    finally:
        recogniser.model.eval()
    assert evaluated.score == other.score
    same = {"seconds": 0.0, "logprob": None}
    pairs = zip(evaluated.records, other.records, strict=True)
    assert all(replace(one, **same) == replace(two, **same) for one, two in pairs)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five recordings, one of them broken, one too short, one silent without a word."""
    clips = [*tones([0.6, 2.0, 1.1]), np.zeros(1, np.float32), np.zeros(8000, np.float32)]
    texts = ["Hello there!", "nothing at all", "broken", "gone", "[noise]"]
    lines = []
    for i, (clip, text) in enumerate(zip(clips, texts, strict=True)):
        write_wav(tmp_path / f"{i}.wav", clip)
        lines.append({"audio_filepath": f"{i}.wav", "text": text, "speaker": "ann", "mood": i})
    (tmp_path / "2.wav").write_bytes(b"RIFF no more")
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(model: str, data: Path | str, out: Path | None, limit: int | None = None) -> Evaluation:
    options = Options("cpu", batch_seconds=30.0, max_utterances=8, limit=limit)
    (evaluation,) = evaluate_command([model], [str(data)], options, "basic", out).values()
    return evaluation


def test_command_writes_what_rescoring_needs(checkpoint, manifest, tmp_path, capsys):
    out = tmp_path / "out"
    evaluation = command(checkpoint, manifest, out)
    records = tuple(read_records(out / "results.jsonl"))
    assert records == evaluation.records
    assert Evaluation.of(records, RULE) == evaluation
    assert {(r.source, r.set, r.model) for r in records} == {("talks", "talks", checkpoint)}
    good = [record for record in records if record.id != "2.wav"]
    assert [(r.speaker, r.extra["mood"], r.audio) for r in good] == [
        ("ann", i, str(tmp_path / f"{i}.wav")) for i in (0, 1, 3, 4)
    ]
    summary = json.loads((out / "summary.json").read_text())
    expected = {
        **json.loads(json.dumps(figures(evaluation))),
        "model": checkpoint, "data": [str(manifest)], "scoring": "basic/1", "device": "cpu",
        "utterances": 3, "empty_references": 1, "failed": 2,
    }  # fmt: skip
    assert summary.items() >= expected.items()
    assert sum(summary["failures"].values()) == 2
    shown = capsys.readouterr().out
    assert "talks" in shown
    assert "too_short" in shown


def test_a_folder_gives_the_same_texts(checkpoint, manifest, tmp_path, monkeypatch):
    """And without a folder for them, results go under runs/."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("0", "1"):
        (folder / f"{name}.wav").write_bytes((tmp_path / f"{name}.wav").read_bytes())
        (folder / f"{name}.txt").write_text("hello there")
    from_manifest = command(checkpoint, manifest, tmp_path / "one", limit=2)
    from_folder = command(checkpoint, folder, None)
    texts = [record.hypothesis for record in from_folder.records]
    assert texts == [record.hypothesis for record in from_manifest.records]
    assert len(list(tmp_path.glob("runs/eval-*/results.jsonl"))) == 1


def test_a_preset_by_name(checkpoint: str, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    evaluation = command(checkpoint, "synthetic", tmp_path / "out", limit=2)
    assert len(evaluation.scored) == 2


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("nothing.jsonl", "nothing"),
        ("no_such_preset", "no_such_preset"),
        ("ami", "hf-audio/esb-datasets-test-only-sorted"),
    ],
)
def test_data_that_is_unknown_or_out_of_reach_is_named(checkpoint, tmp_path, data, named):
    with pytest.raises(DataError, match=named):
        command(checkpoint, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


KNOWN = {
    "ami", "common_voice", "earnings22", "gigaspeech", "librispeech", "librispeech_clean",
    "librispeech_other", "loquacious", "open_asr", "spgispeech", "tedlium", "voxpopuli",
}  # fmt: skip


def test_every_benchmark_is_test_sets_of_the_hub() -> None:
    assert set(sources.benchmarks()) == KNOWN
    for name, size in {"open_asr": 8, "librispeech": 2, "loquacious": 1}.items():  # all members
        sets = {**compose([f"+data/eval={name}", "data=manifest", "output_dir=."]).data.eval}
        assert sets.pop("main").path is None
        assert len(sets) == size
        for source in sets.values():
            assert (source.kind, source.split, source.max_samples) == ("hub", "test", None)
            assert all((source.path, source.subset, source.id_column))
    with pytest.raises(ConfigError, match=r"\+data/eval=tedlium"):
        compose(["+data/eval=tedliun", "output_dir=."])
