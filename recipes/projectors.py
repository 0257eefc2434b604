"""The four projectors side by side: same pair, same speech, same steps, two seeds.

    python -m recipes.projectors [--steps 400] [--seeds 0 1] [--out runs/projectors]

Trains each on the bundled pair with synthetic speech and prints a table. A run that is already
in the output folder is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file

from recipes.runs import Run, machine, markdown, train

KINDS = ("mlp", "mosa", "moe", "qformer")
COLUMNS = ("projector", "parameters", "seed", "WER", "eval loss", "cliff at step", "s/step", "GB")


def compare(out: Path, steps: int, seeds: list[int], extra: list[str]) -> list[Run]:
    """Train every projector with every seed, in turn."""
    runs = []
    for kind in KINDS:
        for seed in seeds:
            overrides = [
                "+experiments=quickstart",
                f"model.projector.type={kind}",
                f"training.max_steps={steps}",
                f"training.eval_steps={steps}",
                f"training.save_steps={steps}",
                "data.eval.synthetic.max_samples=60",
                "training.eval_utterances=60",
                f"seed={seed}",
                *extra,
            ]
            runs.append(train(out / f"{kind}-{seed}", overrides))
    return runs


def table(runs: list[Run]) -> str:
    """One row a run."""
    rows = []
    for run in runs:
        kind, _, seed = run.folder.name.partition("-")
        weights = load_file(run.checkpoint / "model.safetensors")
        rows.append(
            (
                kind,
                f"{sum(w.numel() for w in weights.values()):,}",
                seed,
                f"{run.last_eval['wer']:.1%}",
                f"{run.last_eval['eval_loss']:.3f}",
                run.cliff,
                f"{run.seconds_per_step:.2f}",
                f"{run.peak_gb:.1f}",
            )
        )
    return markdown(COLUMNS, rows)


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("runs/projectors"))
    parser.add_argument("overrides", nargs="*", help="further key=value settings")
    given = parser.parse_args()
    runs = compare(given.out, given.steps, given.seeds, given.overrides)
    text = f"{table(runs)}\n\n{given.steps} steps, {machine()}"
    (given.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
