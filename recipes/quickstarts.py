"""The quickstart with several seeds: word error rate, time, cliff; and their medians.

    python -m recipes.quickstarts [--seeds 0 1 2] [--out runs/quickstarts]

Runs `tiny-audio quickstart` as a user does, one after the other. A run that is already in the
output folder is not repeated.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

from recipes.runs import Run, machine, markdown

COLUMNS = ("seed", "steps", "training", "cliff at step", "WER, unseen voices and sentences")


def quickstart(folder: Path, seed: int) -> Run:
    """One quickstart, its output on the screen.

    Raises:
        SystemExit: it failed; its own message is on the screen.
    """
    done = folder / "done.json"
    if not done.is_file():
        command = [sys.executable, "-m", "tiny_audio", "quickstart"]
        command += ["--seed", str(seed), "--out", str(folder)]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(f"the quickstart in {folder} failed")
        done.write_text("{}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Run(folder, seconds=0.0, rows=rows)


def figures(folder: Path) -> tuple[str, float]:
    """Training time in words and word error rate in percent, from the run's report."""
    report = (folder / "report.md").read_text()
    found = re.search(r"\| time \| (.+?) \|", report), re.search(r"sentences \| ([\d.]+)%", report)
    if found[0] is None or found[1] is None:
        raise SystemExit(f"{folder / 'report.md'} is not a quickstart's report")
    return found[0][1], float(found[1][1])


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstarts"))
    given = parser.parse_args()
    rows, rates = [], []
    for seed in given.seeds:
        run = quickstart(given.out / str(seed), seed)
        took, rate = figures(run.folder)
        rates.append(rate)
        rows.append((seed, run.last_eval["step"], took, run.cliff, f"{rate:.1f} %"))
    text = f"{markdown(COLUMNS, rows)}\n\nmedian {median(rates):.1f} %; {machine()}"
    (given.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
