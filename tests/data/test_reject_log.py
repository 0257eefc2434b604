"""rejects.jsonl: what each line holds, and what becomes of it when a run goes on elsewhere."""

import json

from tests.data.helpers import reject_lines
from tests.train.helpers import run, write_set
from tiny_audio.data.records import Reject, RejectLog


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
    assert first.wer is None
    assert first.best == first.last
    found = reject_lines(tmp_path / "a")
    assert sorted(row["id"] for row in found) == ["bad1.wav", "bad2.wav"]
    assert {row["reason"] for row in found} == {"empty"}
    go_on = f"training.resume_from_checkpoint={first.last}"
    run(data, tmp_path / "b", *short, "training.max_steps=2", go_on)
    assert reject_lines(tmp_path / "b") == found
