"""A set before it is trained on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.data.helpers import noise, write_manifest
from tiny_audio.cli import run
from tiny_audio.data.check import check_command, markers
from tiny_audio.errors import ConfigError, DataError

INLINE = ["data.num_workers=0"]


def check(data: Path | str, *settings: str, model: str = "tiny", **more: Any) -> dict[str, Any]:
    return check_command(str(data), [*INLINE, *settings], model=model, **more)


@pytest.fixture
def troubled(tmp_path: Path) -> Path:
    """Ten records: repeats, a conflict, a marker, a leak, and three that cannot be used."""
    folder = tmp_path / "set"
    folder.mkdir()
    for n in range(6):
        soundfile.write(folder / f"{n}.wav", (noise(1.0, n) * 2**15).astype(np.int16), 16_000)
    audio, _ = soundfile.read(folder / "0.wav", dtype="int16")
    soundfile.write(folder / "again.flac", audio, 16_000)
    soundfile.write(folder / "brief.wav", noise(0.05, 1), 16_000)
    rows = [
        ("0.wav", "a sentence of five words"),
        ("again.flac", "A sentence of five words."),
        ("0.wav", "something else"),
        ("1.wav", "[noise] two of them"),
        ("2.wav", "he said xxx"),
        ("3.wav", "three"),
        ("4.wav", "four"),
        ("brief.wav", "too short"),
        ("missing.wav", "gone"),
        ("5.wav", "[noise]"),
    ]
    return write_manifest(
        folder / "train.jsonl",
        [{"audio_filepath": a, "text": t, "speaker": f"s{n % 3}"} for n, (a, t) in enumerate(rows)],
    )


def test_report(troubled: Path, tmp_path: Path) -> None:
    test = write_manifest(
        troubled.parent / "test.jsonl",
        [
            {"audio_filepath": "again.flac", "text": "a sentence of five words"},
            {"audio_filepath": "5.wav", "text": "held out"},
        ],
    )
    out = tmp_path / "out"
    report = check(troubled, out=out, against=[str(test)])
    figures = report["figures"]
    assert figures["utterances"] == 7
    assert figures["hours"] == pytest.approx(7 / 3600)
    assert figures["seconds"]["median"] == pytest.approx(1.0)
    assert report["rejects"]["seen"] == 10
    assert report["rejects"]["reasons"] == {"too_short": 1, "unreadable": 1, "empty_label": 1}
    assert figures["notes_removed"] == {"[noise]": 1}
    assert figures["notes_left"] == {"xxx": 1}
    assert figures["overlap"] == {f"recordings of {test}": 1, f"long texts of {test}": 1}
    assert figures["speakers"] == {"main/s0": 3, "main/s1": 2, "main/s2": 2}
    assert {(f["kind"], f["count"], *f["examples"][:1]) for f in report["findings"]} >= {
        ("overlap", 1, "0.wav = again.flac"),
        ("repeat", 1, "again.flac = 0.wav"),
        ("repeat", 1, "0.wav = 0.wav"),
        ("marker", 1, "2.wav"),
    }
    assert json.loads((out / "check.json").read_text("utf-8")) == json.loads(json.dumps(report))


def test_tokens_are_those_of_the_model(corpus: Path, tmp_path: Path) -> None:
    report = check(corpus, out=tmp_path, model="nano")
    tokens = report["figures"]["tokens"]
    assert tokens["context"] == 1024
    assert tokens["audio_per_second"] == pytest.approx(12.5, abs=1.0)
    assert 12.5 * 1.3 < tokens["longest"][0] < 1024
    assert "context" not in {finding["kind"] for finding in report["findings"]}


def test_settings_are_those_of_training(troubled: Path, tmp_path: Path) -> None:
    report = check(troubled, "data.labels.allow_empty=true", out=tmp_path)
    assert report["rejects"]["reasons"] == {"too_short": 1, "unreadable": 1}
    with pytest.raises(DataError, match="7 over_budget"):
        check(troubled, "training.batch_seconds=0.5")
    rows = [{"audio_filepath": "3.wav", "said": "hm hm"}]
    manifest = write_manifest(troubled.parent / "said.jsonl", rows)
    with pytest.raises(DataError, match=r"set data\.train\.main\.text_column"):
        check(manifest, out=tmp_path)
    report = check(manifest, "data.train.main.text_column=said", out=tmp_path)
    assert report["figures"]["utterances"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"data": "nosuch"}, "no such file, folder or preset"),
        ({"data": "synthetic"}, "set --limit"),
        ({"model": "nono"}, "model has no option"),
        ({"against": ["nosuch"]}, "no such file, folder or preset"),
    ],
)
def test_mistakes_are_named(corpus: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, DataError), match=says):
        check(**({"data": corpus} | arguments))


def test_the_command(troubled, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--strict", *INLINE, "--model", "tiny", "--out", str(tmp_path)]
    assert run(["data", "check", str(troubled), *options]) == 1
    said = capsys.readouterr().out
    assert max(len(row) for row in said.splitlines() if str(tmp_path) not in row) <= 80
    assert "repeat: 1 utterances came before, same audio" in said
    assert run(["data", "check", str(corpus), *options, "--limit", "4"]) == 0
    assert "main utterances 4," in capsys.readouterr().out


@pytest.mark.parametrize(
    "label",
    [
        "well (laughs softly) yes",
        "a < b",
        "what???",
        "wait .....",
        "noooooo",
        "the the the the cat",
        "nan",
        "he said xxx to me",
        "fish &amp; chips",
        "see https://example.org/x now",
        "caf\N{REPLACEMENT CHARACTER}",
        "cafÃ© au lait",
    ],
)
def test_suspicious(label: str) -> None:
    assert markers(label)


@pytest.mark.parametrize(
    "label",
    [
        "Plain English, isn't it?",
        "and then ... nothing",
        "1,000,000 people",
        "nan's house is null and void",
        "that that that is is",
        "IT'S AN EMAIL FROM BOB & ALICE",
        "ÉCOLE à côté, großes Haus, «maçã»",
        "今日はいい天気ですね",
    ],
)
def test_what_people_say_is_not_suspicious(label: str) -> None:
    assert markers(label) == set()
