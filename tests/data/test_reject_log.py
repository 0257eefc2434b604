"""rejects.jsonl: each rejected record once, whatever the workers, ranks, resumes and kills."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.data.helpers import make_stream, noise, open_one, take, write_manifest
from tests.train.helpers import run, write_set
from tiny_audio.data.loader import TrainingStream
from tiny_audio.data.prepare import QualityLimits
from tiny_audio.data.rejects import Reject, RejectLog

LIMITS = QualityLimits((0.3, 40.0), 0.02, -60.0)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 records, of which every fourth cannot be used, for four reasons in turn."""
    folder = tmp_path_factory.mktemp("spoilt")
    rows = []
    for n in range(60):
        name = f"u{n:02d}.wav"
        sound = np.zeros(9_600) if n % 16 == 8 else noise(0.4 + n / 100, n)
        soundfile.write(folder / name, sound, 16_000)
        if n % 16 == 0:
            (folder / name).write_bytes(b"")
        text = {4: "", 12: "x" * 100}.get(n % 16, f"word {n}")
        rows.append({"audio_filepath": name, "text": text})
    return write_manifest(folder / "m.jsonl", rows)


def reject_ids() -> set[str]:
    return {f"u{n:02d}.wav" for n in range(0, 60, 4)}


def lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    path = folder / (f"rejects-{rank}.jsonl" if rank else "rejects.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def stream_of(spoilt: Path, prompt, folder: Path, **values: Any) -> TrainingStream:
    values.setdefault("log", RejectLog(folder, values.get("rank", 0)))
    source = open_one(path=str(spoilt))
    return make_stream([source], prompt, pool=8, quality=LIMITS, **values)


def pass_over(stream: TrainingStream, passes: float) -> None:
    for _ in stream:
        if stream.epoch > passes:
            return


def test_each_is_there_once_after_several_passes(spoilt, prompt, tmp_path):
    stream = stream_of(spoilt, prompt, tmp_path, num_workers=2)
    pass_over(stream, 2.2)
    found = lines(tmp_path)
    assert sorted(row["id"] for row in found) == sorted(reject_ids())
    assert len(found) == stream.rejects.total == 15
    reasons = {row["id"]: row["reason"] for row in found}
    wanted = ("empty", "empty_label", "silent", "many_chars_per_second")
    assert tuple(reasons[f"u{n:02d}.wav"] for n in (0, 4, 8, 12)) == wanted
    assert all(row["source"] == "main" and row["message"] for row in found)


@pytest.mark.parametrize("stop", [1, 5])
def test_a_resume_writes_none_twice_and_loses_none(spoilt, prompt, tmp_path, stop):
    """Killed after reading further than the last checkpoint, in the middle of a line."""
    whole = stream_of(spoilt, prompt, tmp_path / "whole")
    take(whole, 9)
    stopped = stream_of(spoilt, prompt, tmp_path / "parts", num_workers=2)
    take(stopped, stop)
    saved = deepcopy(stopped.state_dict())
    take(stopped, 3)
    with (tmp_path / "parts" / "rejects.jsonl").open("a") as file:
        file.write('{"id": "u')
    again = stream_of(spoilt, prompt, tmp_path / "parts")
    again.load_state_dict(saved)
    take(again, 9 - stop)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert len(lines(tmp_path / "parts")) == again.rejects.total


def test_ranks_write_their_own_and_together_all(spoilt, prompt, tmp_path):
    for rank in (0, 1, 2):
        pass_over(stream_of(spoilt, prompt, tmp_path, rank=rank, world_size=3), 1.5)
    found = [row["id"] for rank in range(3) for row in lines(tmp_path, rank)]
    assert sorted(found) == sorted(reject_ids())


def test_lines_are_whole_json_whatever_the_id(tmp_path):
    log = RejectLog(tmp_path)
    odd = ["a\nb", "\u2028", "\udc80", 'q"uote', "é漢"]
    for text in odd:
        log.add(Reject(text, "main", "r", "m"))
    raw = (tmp_path / "rejects.jsonl").read_bytes()
    assert [json.loads(line)["id"] for line in raw.splitlines()] == odd
    log.keep(3)
    log.keep(9)
    kept = (tmp_path / "rejects.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["id"] for line in kept] == odd[:3]
    RejectLog().add(Reject("x", "main", "r", "m"))  # no folder, no file


def test_a_run_writes_them_and_goes_on_with_them_elsewhere(tmp_path):
    data = write_set(tmp_path / "set")
    for name in ("bad1", "bad2"):
        (data / f"{name}.wav").write_bytes(b"")
        (data / f"{name}.txt").write_text("words")
    short = ("training.eval_steps=0", "training.warmup_steps=0", "data.holdout=0")
    short = (*short, "data.eval_path=null", "training.save_steps=1")
    first = run(data, tmp_path / "a", *short, "training.max_steps=1")
    found = lines(tmp_path / "a")
    assert sorted(row["id"] for row in found) == ["bad1.wav", "bad2.wav"]
    assert {row["reason"] for row in found} == {"empty"}
    go_on = f"training.resume_from_checkpoint={first.last}"
    run(data, tmp_path / "b", *short, "training.max_steps=2", go_on)
    assert lines(tmp_path / "b") == found
