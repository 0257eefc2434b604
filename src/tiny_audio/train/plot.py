"""loss.png: the training curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiny_audio.train.cliff import Cliff
from tiny_audio.train.notes import Row


def draw_curves(rows: Sequence[Row], cliff: Cliff, path: Path) -> None:
    """Draw training loss, evaluation loss and (on the right axis) WER over the steps.

    Args:
        rows: of metrics.jsonl.
        cliff: marked where it was passed.
        path: PNG that is written.
    """
    # Imported here, and without pyplot: no window system is touched, whatever MPLBACKEND says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for kind, key, label, style in (
        ("train", "loss", "training loss", {"color": "tab:blue", "linewidth": 1.0}),
        ("eval", "eval_loss", "evaluation loss", {"color": "tab:orange", "marker": "o"}),
    ):
        points = [(r["step"], r[key]) for r in rows if r["kind"] == kind and r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="step", ylabel="cross-entropy (nats per token)", ylim=(0, None))
    wer = [(r["step"], r["wer"]) for r in rows if r["kind"] == "eval" and r.get("wer") is not None]
    lines, labels = axes.get_legend_handles_labels()
    if wer:
        right = axes.twinx()
        steps, rates = zip(*wer, strict=True)
        # A model that babbles can pass 100 % many times over; the interesting part is below.
        right.set(ylabel="WER (%)", ylim=(0, 115))
        lines += right.plot(
            steps, [100 * min(rate, 1.1) for rate in rates], "s--", color="tab:green"
        )
        labels.append("WER")
    if cliff.step is not None:
        word = "cliff" if cliff.sudden else "hears"
        lines.append(axes.axvline(cliff.step, color="grey", linestyle=":"))
        labels.append(f"{word}, step {cliff.step}")
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(lines, labels, loc="upper right")
    figure.savefig(path, format="png")
