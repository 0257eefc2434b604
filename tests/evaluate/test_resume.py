"""A stopped evaluation goes on where it was, and ends as one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.infer.helpers import tones, write_wav
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.models import Options
from tiny_audio.evaluate.results import Record, read_records
from tiny_audio.evaluate.run import evaluate_command

OPTIONS = Options("cpu", batch_seconds=0.6, max_utterances=3)


@dataclass
class Case:
    """A model, two sets, and the folder and records of an evaluation that was not stopped."""

    checkpoint: str
    sets: list[str]
    out: Path
    records: list[Record]

    def run(self, out: Path, sets: list[str] | None = None, **changes: Any) -> list[Record]:
        """Evaluate (again); the records without times."""
        options = replace(OPTIONS, **{k: v for k, v in changes.items() if hasattr(OPTIONS, k)})
        others = {k: v for k, v in changes.items() if not hasattr(OPTIONS, k)}
        others = {"scoring": "basic", **others}
        evaluate_command([self.checkpoint], sets or self.sets, out=out, options=options, **others)
        return [replace(record, seconds=0.0) for record in read_records(out / "results.jsonl")]

    def lines(self) -> list[str]:
        return (self.out / "results.jsonl").read_text().splitlines(keepends=True)

    def stopped(self, out: Path, results: str) -> None:
        """Make `out` a folder that a stopped evaluation left behind."""
        (out / "settings.json").write_bytes((self.out / "settings.json").read_bytes())
        (out / "results.jsonl").write_text(results)


@pytest.fixture(scope="module")
def case(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two sets of eight recordings each, one of them broken."""
    sets = []
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp("sets") / name
        folder.mkdir()
        rng = np.random.default_rng(len(name))
        for number, clip in enumerate(tones([float(s) for s in rng.uniform(0.3, 0.9, 8)])):
            write_wav(folder / f"{number:02}.wav", clip)
            (folder / f"{number:02}.txt").write_text(f"word number {number}")
        (folder / "05.wav").write_bytes(b"RIFF no more")
        sets.append(str(folder))
    found = Case(checkpoint, sets, tmp_path_factory.mktemp("whole") / "out", [])
    found.records = found.run(found.out)
    return found


@pytest.mark.parametrize("kept", [1, 6, 13])
def test_wherever_it_was_stopped_the_end_is_the_same(kept: int, case: Case, tmp_path: Path) -> None:
    """Records, texts, log-probabilities to the last digit, and figures; only times differ."""
    lines = case.lines()
    case.stopped(tmp_path, "".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
    assert case.run(tmp_path) == case.records
    timed = {"date", "wall_seconds", "rtfx", "intervals", "sets", "breakdown"}
    one, other = (json.loads((p / "summary.json").read_text()) for p in (case.out, tmp_path))
    assert {k: one[k] for k in one.keys() - timed} == {k: other[k] for k in other.keys() - timed}
    assert one["intervals"]["wer"] == other["intervals"]["wer"]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = [word for one in case.sets for word in ("--data", one)]
    command = [
        sys.executable, "-m", "tiny_audio", "eval", case.checkpoint, *data, "--out", str(out),
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
    assert case.run(out) == case.records


def test_what_is_whole_is_not_made_again(case: Case, tmp_path: Path) -> None:
    """Texts that only the earlier run can have written are still there at the end."""
    lines = [json.dumps({**json.loads(line), "hypothesis": "mark"}) for line in case.lines()]
    case.stopped(tmp_path, "\n".join(lines[:14]) + "\n")
    kept = [record.hypothesis == "mark" for record in case.run(tmp_path)]
    assert all(kept[:8])  # the first set was read to its end
    assert kept == sorted(kept, reverse=True)
    assert 8 < sum(kept) <= 14


def test_an_evaluation_that_is_over_is_only_shown_again(case, tmp_path, capsys):
    case.stopped(tmp_path, "".join(case.lines()))
    (tmp_path / "summary.json").write_bytes((case.out / "summary.json").read_bytes())
    case.run(tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == "".join(case.lines())
    assert "16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limit": 3}, "limit was null, now 3"),
        ({"batch_seconds": 2.0}, r"batch_seconds was 0\.6, now 2\.0"),
        ({"scoring": "whisper-en"}, 'scoring was "basic/1", now "whisper-en/1"'),
        ({"sets": ["synthetic"]}, "data was"),
    ],
)
def test_other_settings_are_refused_by_name(change: dict[str, Any], named: str, case: Case) -> None:
    before = case.lines()
    with pytest.raises(ConfigError, match=f"{named}.*--out"):
        case.run(case.out, **change)
    assert case.lines() == before


def test_a_changed_manifest_is_another_evaluation(case: Case, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    line = json.dumps({"audio_filepath": f"{case.sets[0]}/00.wav", "text": "x"}) + "\n"
    manifest.write_text(line)
    case.run(tmp_path / "out", [str(manifest)])
    manifest.write_text(line * 2)
    with pytest.raises(ConfigError, match="data was"):
        case.run(tmp_path / "out", [str(manifest)])


def test_a_folder_with_other_results_is_left_alone(case: Case, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="--out"):
        case.run(tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == "{}\n"


def test_nothing_scored_is_an_error_that_a_second_try_repeats(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"RIFF no more")
    (folder / "a.txt").write_text("x")
    for _ in range(2):
        with pytest.raises(DataError, match=r"results\.jsonl"):
            case.run(tmp_path / "out", [str(folder)])
