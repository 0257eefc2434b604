"""Hundreds of malformed recordings: used or rejected by reason, quickly and in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from tests.conftest import REPO

REASONS = {
    "used", "empty", "not_audio", "truncated", "not_finite", "too_long", "too_short", "unreadable",
    "silent", "clipped",
}  # fmt: skip
COUNTED = ("wav", "flac", "ogg", "opus", "aiff", "caf", "au", "w64", "rf64", "sph", "m4a", "mp4")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("malformed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.audio.malformed", str(folder)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stderr == ""  # the decoders keep their warnings to themselves
    return json.loads((folder / "results.json").read_text())


def became(report: dict[str, Any]) -> dict[str, str]:
    """Case without its number -> what became of it; the first where names come twice."""
    found: dict[str, str] = {}
    for row in report["results"]:
        number, _, name = row["case"].partition("-")
        found.setdefault(name if number.isdigit() else row["case"], row["became"])
    return found


def test_each_is_used_or_rejected_by_reason(report):
    assert len(report["results"]) > 400
    odd = [row for row in report["results"] if row["became"] not in REASONS]
    assert odd == []
    assert all("\n" not in row["said"] for row in report["results"])
    counts = Counter(row["became"] for row in report["results"])
    assert set(counts) == REASONS  # every reason is met


def test_none_hangs_or_takes_much_memory(report):
    slow = [row for row in report["results"] if row["seconds"] > 10]
    assert slow == []
    assert report["mib_at_most"] - report["mib_before"] < 1_024


def test_good_files_are_used_under_any_name(report):
    for case, outcome in became(report).items():
        if case.startswith(("whole", "called")):
            assert outcome == "used", case


def test_files_that_break_off_are_told_where_their_length_is_declared(report):
    found = became(report)
    for suffix in COUNTED:
        for share in (0.5, 0.1):
            assert found[f"cut-{share}.{suffix}"] in ("truncated", "unreadable"), (suffix, share)


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        ("nan-at-0.wav", "not_finite"),
        ("inf-at--1.wav", "not_finite"),
        ("dc.wav", "silent"),
        ("silence.wav", "silent"),
        ("square.wav", "clipped"),
        ("sixteen-bits-as-float.wav", "clipped"),
        ("one-sample.wav", "too_short"),
        ("no-sample.wav", "empty"),
        ("8-channels.wav", "used"),
        ("255-channels.wav", "used"),
        ("192000-hz.flac", "used"),
        ("1000-hz.wav", "used"),
        ("rate-999.wav", "unreadable"),
        ("bits-64.wav", "unreadable"),
        ("data-0xffffffff.wav", "used"),  # written to a pipe
        ("zeros.wav", "not_audio"),
        ("pointer.wav", "not_audio"),
        ("list.m3u8", "not_audio"),
        ("empty.mp3", "empty"),
        ("missing.wav", "unreadable"),
        ("zero", "unreadable"),  # /dev/zero
    ],
)
def test_what_becomes_of_some(report, case: str, outcome: str):
    assert became(report)[case] == outcome
