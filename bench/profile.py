"""Where a training step goes: kernels by time, and how much of the step the device is at work."""

from __future__ import annotations

import time
from typing import Any

from torch.profiler import ProfilerActivity, profile

from bench.common import synchronize
from bench.load import Collator
from bench.step import Step, Variant
from bench.train import Bench, cut


def profile_step(bench: Bench, variant: Variant, top: int = 16) -> None:
    """Print the kernels that take most of one step of a variant."""
    model = bench.model
    members = cut(bench.pool, variant, bench.plan)[1]
    load = Collator(model, variant.host_mel, labels=True)(members).to(model.device)
    step = Step(model, variant)
    model.train()
    for _ in range(3):
        synchronize(model.device)
        start = time.perf_counter()
        step(load)
        synchronize(model.device)
        wall = time.perf_counter() - start  # of the last, without the profiler
    cuda = model.device.type == "cuda"
    activity = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    with profile(activities=activity) as trace:
        step(load)
        synchronize(model.device)
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows: Any = trace.key_averages()
    rows = sorted(rows, key=lambda r: -getattr(r, key))
    total = sum(getattr(r, key) for r in rows)
    audio = sum(u.seconds for u in members)
    print(f"\n### one step of '{variant.name}', {audio:.0f} s of audio\n")
    print(f"{wall * 1e3:.0f} ms, of which the device is at work for {total / 1e3:.0f} ms\n")
    for row in rows[:top]:
        print(f"- {getattr(row, key) / total:6.1%} {row.count:5d} x {row.key[:100]}", flush=True)
