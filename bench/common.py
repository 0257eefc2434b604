"""What the benchmarks share: the machine and its limits, peak memory, and the table."""

from __future__ import annotations

import gc
import os
import platform
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import torch
import transformers
from torch.utils.benchmark import Timer

from bench.load import WINDOW
from tiny_audio.data.records import Utterance


def machine(device: torch.device) -> str:
    """One line that says where the numbers come from."""
    cores = len(os.sched_getaffinity(0))
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        what = f"one {gpu.name} ({gpu.total_memory / 2**30:.0f} GiB), {cores} CPU cores"
    else:
        what = f"{cores} cores of {_cpu_name()}, {torch.get_num_threads()} threads"
    cuda = f" CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    versions = f"torch {torch.__version__.split('+')[0]}{cuda}, transformers"
    return f"{what}; {versions} {transformers.__version__}; {date.today().isoformat()}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def measure_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in a large matrix product of that dtype, on random numbers."""
    n = 8192 if device.type == "cuda" else 1536
    a = torch.randn(n, n, device=device).to(dtype)
    timer = Timer("torch.mm(a, a)", globals={"a": a}, num_threads=torch.get_num_threads())
    return float(2 * n**3 / timer.blocked_autorange(min_run_time=1.0).median)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory held between ``start`` and ``read``.

    On CUDA: tensors, weights included. On a CPU: the process, less what it held when this object
    was made (make it before the model, so that the weights count and Python does not).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._base = _resident("VmRSS")

    def start(self) -> None:
        """Forget what was held before."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:  # Linux: makes VmHWM start again from what is held now
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            print("(peak memory cannot be reset here: it is that of the rows so far)")

    def read(self) -> float:
        """Bytes; not a number where the system does not tell."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return _resident("VmHWM") - self._base


def _resident(key: str) -> float:
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return 1024.0 * int(found[1]) if found else float("nan")


class Table:
    """Rows in Markdown, each printed as soon as it is known."""

    COLUMNS = (
        *("variant", "audio s/s", "step", "of ceiling", "padding", "input wait", "peak memory"),
        "vs first",
    )

    def __init__(self, title: str, ceiling: float) -> None:
        self.ceiling = ceiling  # operations a second
        self.first = 0.0
        print(f"\n### {title}\n")
        print_rows(self.COLUMNS, ["---"] + ["---:"] * (len(self.COLUMNS) - 1))

    def add(
        self,
        variant: str,
        seconds: float,
        batches: Sequence[Sequence[Utterance]],
        flops: Callable[[Utterance], float],
        peak: float,
        *,
        window: bool = False,
        waited: float = 0.0,
    ) -> float:
        """Print a row; seconds of audio a second, padding not counted.

        Args:
            seconds: wall clock for the batches.
            flops: that an utterance needs; padding, waste and recomputation not counted.
            peak: bytes.
            window: each clip was padded to 30 s, not to the longest of its batch.
            waited: seconds of the wall clock spent waiting for input.
        """
        members = [u for batch in batches for u in batch]
        audio = sum(u.seconds for u in members)
        padded = sum(len(b) * (WINDOW if window else max(u.seconds for u in b)) for b in batches)
        rate, step = audio / seconds, seconds / len(batches)
        self.first = self.first or rate
        print_rows(
            (
                variant,
                f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}",
                f"{step:.2f} s" if step >= 1 else f"{step * 1e3:.0f} ms",
                f"{sum(map(flops, members)) / seconds / self.ceiling:.1%}",
                f"{1 - audio / padded:.0%}",
                f"{waited / seconds:.0%}",
                f"{peak / 2**30:.1f} GiB",
                f"{rate / self.first:.2f} x",
            )
        )
        return rate

    def failed(self, variant: str, why: str) -> None:
        """Print a row that has no numbers, and why."""
        print_rows((variant, why, *[""] * (len(self.COLUMNS) - 2)))


def print_rows(*rows: Sequence[str]) -> None:
    """Print rows of a table in Markdown."""
    for cells in rows:
        print("| " + " | ".join(cells) + " |", flush=True)
