"""``python -m bench train infer check``: the parts that are named, on one pair, in one process.

``data``, ``startup``, ``words``, ``live``, ``serve``, ``guards`` and ``hotwords`` need no pair.
"""

from __future__ import annotations

import argparse
import sys

import torch

from bench import agree, check, data, guards, infer, live, serve, startup, train, words
from bench.common import PeakMemory, machine, measure_ceiling
from bench.load import describe, load_pair
from tiny_audio.model.build import pick_device

WITH_PAIR = {"train", "infer", "check"}
GUARDS = {"guards": guards.run, "hotwords": guards.run_hotwords}


def main() -> int:
    """Run the parts; exit code 1 where something is not equal that must be."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="+",
        choices=[*sorted(WITH_PAIR), "data", "startup", "words", "live", "serve", *GUARDS],
    )
    parser.add_argument("--pair", default="small", help="small, tiny, glm_qwen3, whisper_qwen3")
    parser.add_argument("--random", action="store_true", help="random weights, no download")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--lengths", nargs="+", default=["speech"], choices=["speech", "commands"])
    parser.add_argument(
        "--compile", action="store_true", help="after all, training with torch.compile"
    )
    parser.add_argument("--profile", action="store_true", help="where a training step goes")
    parser.add_argument("--samples", type=int, default=100_000, help="data: for memory")
    parser.add_argument("--requests", type=int, default=10_000, help="serve: for memory")
    parser.add_argument(
        "--simulated",
        action="store_true",
        help="live: a clock that waits for nothing, by CPU time",
    )
    args = parser.parse_args()
    held = True
    if WITH_PAIR.isdisjoint(args.parts):
        print(f"\nMachine: {machine(torch.device('cpu'))}")
    else:
        held = with_pair(args)
    if "data" in args.parts:
        held &= data.run(args.samples)
    if "startup" in args.parts:
        held &= startup.run()
    if "words" in args.parts:
        held &= words.run()
    if "live" in args.parts:
        held &= live.run(args.simulated)
    if "serve" in args.parts:
        held &= serve.run(args.requests)
    for part in GUARDS:
        if part in args.parts:
            held &= GUARDS[part]()
    return 0 if held else 1


def with_pair(args: argparse.Namespace) -> bool:
    """The parts that run a pair; returns whether all is equal that must be."""
    device = pick_device(args.device)
    memory = PeakMemory(device)
    model = load_pair(args.pair, device, random=args.random)
    ceiling = measure_ceiling(device, next(model.encoder.parameters()).dtype)
    print(f"\nMachine: {machine(device)}\nModel: {args.pair}: {describe(model)}")
    print(f"Ceiling: {ceiling / 1e12:.3g} TFLOP/s (matrix product in that dtype)", flush=True)
    held = True
    benches: dict[str, train.Bench] = {}
    if "train" in args.parts:
        held &= agree.check_training(model)
    if "infer" in args.parts:
        held &= agree.check_text(model)
    for kind in args.lengths:
        if "train" in args.parts:
            benches[kind] = bench = train.Bench.prepare(model, ceiling, memory, kind)
            train.run(bench, "training", bench.rows())
            train.run_passes(bench)
            if args.profile:
                train.profile_step(bench, bench.last_row())
        if "infer" in args.parts:
            infer.run(model, ceiling, memory, kind)
    if "check" in args.parts:
        held &= check.run(model)
    if args.compile:  # last: it may take long
        for bench in benches.values():
            train.run(bench, "compiled", train.compiled_variants(bench.last_row()))
    return held


if __name__ == "__main__":
    with torch.random.fork_rng():
        sys.exit(main())
