"""A stopped evaluation goes on where it was, and ends as one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.infer.helpers import tones, write_wav
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.models import Options
from tiny_audio.evaluate.results import Record, read_records
from tiny_audio.evaluate.run import evaluate_command, fingerprint

OPTIONS = Options("cpu", batch_seconds=0.6, max_utterances=3, beams=1, language=None)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sets of eight recordings each, one of them broken."""
    found = []
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp("sets") / name
        folder.mkdir()
        rng = np.random.default_rng(len(name))
        for number, clip in enumerate(tones([float(s) for s in rng.uniform(0.3, 0.9, 8)])):
            write_wav(folder / f"{number:02}.wav", clip)
            (folder / f"{number:02}.txt").write_text(f"word number {number}")
        (folder / "05.wav").write_bytes(b"RIFF no more")
        found.append(str(folder))
    return found


def run(checkpoint: str, sets: list[str], out: Path, **changes: Any) -> list[Record]:
    options = replace(OPTIONS, **{k: v for k, v in changes.items() if hasattr(OPTIONS, k)})
    evaluate_command(
        [checkpoint],
        sets[: changes.get("first")],
        out=out,
        scoring=changes.get("scoring", "basic"),
        options=options,
        limit=changes.get("limit"),
    )
    return untimed(out)


def untimed(out: Path) -> list[Record]:
    return [replace(record, seconds=0.0) for record in read_records(out / "results.jsonl")]


@pytest.fixture(scope="module")
def whole(
    checkpoint: str, sets: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Record]]:
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, run(checkpoint, sets, out)


@pytest.mark.parametrize("kept", [1, 6, 13])
def test_wherever_it_was_stopped_the_end_is_the_same(
    kept: int, whole: tuple[Path, list[Record]], checkpoint: str, sets: list[str], tmp_path: Path
) -> None:
    """Records, texts, log-probabilities to the last digit, and figures; only times differ."""
    out, records = whole
    (tmp_path / "settings.json").write_bytes((out / "settings.json").read_bytes())
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    torn = lines[kept][: len(lines[kept]) // 2] if kept < len(lines) else b""
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:kept]) + torn)
    assert run(checkpoint, sets, tmp_path) == records
    timed = {"date", "wall_seconds", "rtfx"}
    one, other = (json.loads((p / "summary.json").read_text()) for p in (out, tmp_path))
    for key in one.keys() - timed - {"intervals", "sets", "bootstrap"}:
        assert one[key] == other[key], key
    assert one["intervals"]["wer"] == other["intervals"]["wer"]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(
    whole: tuple[Path, list[Record]], checkpoint: str, sets: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = [word for one in sets for word in ("--data", one)]
    command = [
        sys.executable, "-m", "tiny_audio", "eval", checkpoint, *data, "--out", str(out),
        "--scoring", "basic", "--batch-seconds", "0.6", "--batch-size", "3", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        file = out / "results.jsonl"
        if file.exists() and file.read_bytes().count(b"\n") >= 5:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    assert run(checkpoint, sets, out) == whole[1]


def test_what_is_whole_is_not_made_again(
    whole: tuple[Path, list[Record]], checkpoint: str, sets: list[str], tmp_path: Path
) -> None:
    """Texts that only the earlier run can have written are still there at the end."""
    out, _ = whole
    (tmp_path / "settings.json").write_bytes((out / "settings.json").read_bytes())
    lines = (out / "results.jsonl").read_text().splitlines(keepends=True)
    marked = [json.dumps({**json.loads(line), "hypothesis": "mark"}) + "\n" for line in lines]
    (tmp_path / "results.jsonl").write_text("".join(marked[:14]))
    records = run(checkpoint, sets, tmp_path)
    kept = [record.hypothesis == "mark" for record in records]
    assert all(kept[:8])  # the first set was read to its end
    assert kept == sorted(kept, reverse=True)
    assert 8 < sum(kept) <= 14


def test_an_evaluation_that_is_over_is_only_shown_again(
    whole: tuple[Path, list[Record]],
    checkpoint: str,
    sets: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("settings.json", "results.jsonl", "summary.json"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    before = (tmp_path / "results.jsonl").read_bytes()
    run(checkpoint, sets, tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert "16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limit": 3}, "limit was null, now 3"),
        ({"batch_seconds": 2.0}, "batch_seconds was 0.6, now 2.0"),
        ({"scoring": "whisper-en"}, 'scoring was "basic/1", now "whisper-en/1"'),
        ({"first": 1}, "data was"),
    ],
)
def test_other_settings_are_refused_by_name(
    change: dict[str, object],
    named: str,
    whole: tuple[Path, list[Record]],
    checkpoint: str,
    sets: list[str],
) -> None:
    before = (whole[0] / "results.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")) as caught:
        run(checkpoint, sets, whole[0], **change)
    assert "--out" in str(caught.value)
    assert (whole[0] / "results.jsonl").read_bytes() == before


def test_a_changed_manifest_is_another_evaluation(
    checkpoint: str, sets: list[str], tmp_path: Path
) -> None:
    manifest = tmp_path / "m.jsonl"
    for count in (1, 2):
        line = {"audio_filepath": f"{sets[0]}/00.wav", "text": "x"}
        manifest.write_text((json.dumps(line) + "\n") * count)
        if count == 1:
            run(checkpoint, [str(manifest)], tmp_path / "out")
    with pytest.raises(ConfigError, match="data was"):
        run(checkpoint, [str(manifest)], tmp_path / "out")


def test_a_folder_with_other_results_is_left_alone(
    checkpoint: str, sets: list[str], tmp_path: Path
) -> None:
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="--out"):
        run(checkpoint, sets, tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == "{}\n"


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    before = fingerprint(str(tmp_path))
    assert fingerprint(str(tmp_path)) == before
    (tmp_path / "b").write_text("two")
    assert fingerprint(str(tmp_path)) != before
    assert fingerprint("nothing/there") is None


def test_nothing_scored_is_an_error_that_a_second_try_repeats(
    checkpoint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"RIFF no more")
    (folder / "a.txt").write_text("x")
    for _ in range(2):
        with pytest.raises(DataError, match=r"results\.jsonl"):
            run(checkpoint, [str(folder)], tmp_path / "out")
