"""check.png: how long the utterances are, and how fast they are spoken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_BARS = 40


def draw_check(report: dict[str, Any], path: Path) -> None:
    """Draw the histograms of a report of `check_set`; writes a PNG."""
    # Imported here, and without pyplot: no window system is touched, whatever MPLBACKEND says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, label in (
        (panels[0], "seconds", "duration (s)"),
        (panels[1], "characters_per_second", "characters of the label a second"),
    ):
        edges, counts = rebin(report[key], _BARS)
        width = edges[1] - edges[0]
        axes.bar(edges[:-1], counts, width=width, align="edge", edgecolor="white", linewidth=0.4)
        axes.axvline(report[key]["median"], color="tab:red", linewidth=1, label="median")
        for quantile in ("p01", "p99"):
            axes.axvline(report[key][quantile], color="grey", linestyle=":", label="1 %, 99 %")
        handles, labels = axes.get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True))
        axes.legend(known.values(), known.keys(), frameon=False)
        axes.set(xlabel=label, ylabel="utterances", xlim=(edges[0], edges[-1]))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(f"{report['utterances']:,} utterances, {report['hours']:.2f} h")
    figure.savefig(path, format="png")


def rebin(histogram: dict[str, Any], most: int) -> tuple[list[float], list[int]]:
    """A histogram with at most so many bars of a round width: edges [n + 1] and counts [n]."""
    fine: list[int] = histogram["bins"]
    width = histogram["bin_width"]
    first = next((i for i, n in enumerate(fine) if n), 0)
    joined = 1
    for joined in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        start = first // joined * joined
        if len(fine) - start <= joined * most:
            break
    start = first // joined * joined
    counts = [sum(fine[i : i + joined]) for i in range(start, max(len(fine), 1), joined)]
    edges = [(start + i * joined) * width for i in range(len(counts) + 1)]
    return edges, counts
