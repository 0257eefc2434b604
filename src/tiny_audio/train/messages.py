"""What a run says at its beginning and end: pure functions from facts to lines of text."""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from tiny_audio.train.progress import duration

_REPLACED = ("output_dir=", "training.resume_from_checkpoint=")


def beginning(
    folder: Path,
    *,
    device: str,
    precision: str,
    processes: int,
    learning: Mapping[str, int],
    parameters: int,
    held_out: int,
    resumed: tuple[Path, int] | None,
) -> list[str]:
    """Lines before the first step. ``learning``: parameters that learn, by part."""
    where = f"{device}, {precision}" + (f", {processes} processes" if processes > 1 else "")
    parts = ", ".join(f"{part} ({count:,})" for part, count in learning.items())
    total = sum(learning.values())
    lines = [
        f"Run {folder} on {where}",
        f"Learns: {parts}; {total:,} of {parameters:,} parameters, the others are frozen",
        f"Held out for evaluation: {held_out} utterances" if held_out else "No evaluation data",
    ]
    if resumed is not None:
        lines.append(f"Goes on from {resumed[0]}, after step {resumed[1]}")
    return lines


def ending(
    folder: Path,
    *,
    steps: int,
    seconds: float,
    wer: float | None,
    best: Path | None,
    planned: int = 0,
    start: str | None = None,
) -> list[str]:
    """Lines after the last step: what came out, where it is, what to type next.

    ``planned``: steps of the run, if the data had not ended before. ``start``: the weights that it
    began with and their score, where no evaluation was better.
    """
    score = f"; WER {wer:.1%}" if wer is not None else ""
    early = steps < planned
    lines = [
        *(["All data was heard once; more steps were planned (data.exhausted=stop)"] * early),
        f"Trained {steps} steps in {duration(seconds)}{score}",
        f"Curves: {folder / 'loss.png'}; every figure: {folder / 'metrics.jsonl'}",
    ]
    if start is not None:
        lines.append(f"No checkpoint is better than {start}: keep that")
    if best is not None:
        lines += [
            f"Best checkpoint: {best}"
            + (" (no better than the start)" if start is not None else ""),
            f"Next: tiny-audio transcribe FILE --model {shlex.quote(str(folder))}",
        ]
    return lines


def patience_ended(metric: str, patience: int) -> str:
    """Why a run ended before its last step."""
    name = "WER" if metric == "wer" else "loss"
    several = f"{patience} evaluations" if patience > 1 else "an evaluation"
    return (
        f"Ended early, after {several} without a better {name} "
        f"(training.early_stopping_patience={patience}); the best checkpoint is kept"
    )


def not_finite(step: int, what: str, ids: Sequence[str]) -> str:
    """Why a run ends at a loss or gradient that is no number."""
    return (
        f"step {step}: the {what} is not a finite number, in the batch of {', '.join(ids)}. The "
        "weights were not touched and the last checkpoint is whole: look at these samples, or "
        "resume with a lower training.learning_rate or training.precision=fp32"
    )


def out_of_memory(step: int, times: int, limit: float) -> str:
    """Line after a step for which memory did not suffice. ``limit``: seconds, of this process."""
    now = (
        f"batches are computed in parts of at most {limit:.0f} s"
        if limit < math.inf
        else ("another process computes its batches in smaller parts")
    )
    return (
        f"Out of memory in step {step}" + (f", {times} times" if times > 1 else "") + f": {now} "
        "from here on; the updates stay the same. A smaller training.batch_seconds avoids the cut"
    )


def interruption(
    folder: Path, *, number: int, step: int, argv: Sequence[str] | None, processes: int
) -> list[str]:
    """Lines after an early end: what was saved and how to go on.

    ``argv``: the command line that was typed; None where the run was started from Python.
    """
    by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    return [
        f"Stopped by {by} after step {step}; everything is saved. Go on with:",
        f"  {resume_command(folder, argv, processes)}",
    ]


def resume_command(folder: Path, argv: Sequence[str] | None, processes: int) -> str:
    """The command that was typed, made to go on from the last checkpoint in ``folder``."""
    added = [f"output_dir={folder}", "training.resume_from_checkpoint=last"]
    if argv is None:
        return "train() with the same settings and " + " ".join(added)
    program, *words = argv
    if processes > 1:
        start = ["accelerate", "launch", f"--num_processes={processes}", "-m", "tiny_audio"]
    elif Path(program).name == "__main__.py":
        start = ["python", "-m", "tiny_audio"]
    else:
        start = [Path(program).name]
    kept = [word for word in words if not word.lstrip("+").startswith(_REPLACED)]
    return shlex.join([*start, *kept, *added])
