"""How long one waits for the first answer, each time in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import soundfile

from bench.common import print_rows
from bench.data import RATE, speechlike

REPEATS = 5


def commands(recording: Path) -> dict[str, list[str]]:
    """What is waited for -> a command line."""
    load = "import tiny_audio; recogniser = tiny_audio.load('nano', device='cpu')"
    first = f"{load}; print(recogniser.transcribe({str(recording)!r}).text)"
    python, program = [sys.executable, "-c"], [sys.executable, "-m", "tiny_audio"]
    transcribe = [*program, "transcribe", str(recording), "--device", "cpu"]
    return {
        "`tiny-audio --help`": [*program, "--help"],
        "`import tiny_audio`": [*python, "import tiny_audio"],
        '`tiny_audio.load("nano")`': [*python, load],
        "its first transcript, of 3 s": [*python, first],
        "`tiny-audio transcribe`, the same 3 s": transcribe,
    }


def run(repeats: int = REPEATS) -> bool:
    """Print the table; returns whether every command ended well."""
    print(f"\n### startup: from nothing, in a new process (median of {repeats})\n")
    print_rows(["", "time", "processor time"], ["---", "---:", "---:"])
    ended_well = True
    with TemporaryDirectory() as folder:
        recording = Path(folder, "clip.wav")
        soundfile.write(recording, speechlike(3.0, 0), RATE)
        for name, command in commands(recording).items():
            timed(command)  # files come into the system's cache
            found = [timed(command) for _ in range(repeats)]
            wall, core = (median(f[i] for f in found) for i in (0, 1))
            failed = any(status for _, _, status in found)
            ended_well &= not failed
            why = " (FAILED)" if failed else ""
            print_rows([name + why, f"{wall:.2f} s", f"{core:.2f} s"])
    return ended_well


def timed(command: Sequence[str]) -> tuple[float, float, int]:
    """Wall clock and processor time of a new process in seconds, and its exit status."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would look for it again
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, process.returncode
