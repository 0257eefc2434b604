"""Time and exit status of a new process."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.startup import commands, timed


def test_a_process_that_works_uses_the_processor() -> None:
    wall, core, status = timed([sys.executable, "-c", "sum(range(10**7))"])
    assert status == 0
    assert 0.02 < core < wall + 0.05


def test_one_that_sleeps_does_not() -> None:
    wall, core, _ = timed([sys.executable, "-c", "import time; time.sleep(0.5)"])
    assert wall > 0.5
    assert core < 0.4


def test_a_failure_is_seen() -> None:
    assert timed([sys.executable, "-c", "raise SystemExit(3)"])[2] == 3


def test_the_light_commands_end_well(tmp_path: Path) -> None:
    found = commands(tmp_path / "none.wav")
    for name in list(found)[:2]:
        assert timed(found[name])[2] == 0, name
