"""The picture of a projector: its scale, its tokens over time, its experts or queries, its weights.

Drawn without a display, so that it works on a server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from tiny_audio.model.projectors.base import Projector
from tiny_audio.model.projectors.qformer import QFormer

if TYPE_CHECKING:
    from tiny_audio.model.inspect import ProjectorReport


def draw_projector(projector: Projector, report: ProjectorReport, path: Path) -> None:
    """Write a PNG of a report: four panels."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.kind} projector")
    axes = figure.subplots(2, 2)
    _scale(axes[0][0], report)
    _square(axes[0][1], cosines(report.first_clip), "cosine of the longest clip's audio tokens")
    _inside(axes[1][0], projector, report)
    _weights(axes[1][1], report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)


def cosines(rows: Tensor) -> Tensor:
    """Cosine of every pair of rows: [N, W] -> [N, N]."""
    unit = F.normalize(rows.float(), dim=-1)
    return unit @ unit.T


def _scale(axis: Any, report: ProjectorReport) -> None:
    both = torch.cat([report.token_rms, report.row_rms]).clamp(min=1e-8).log10()
    bins = torch.logspace(float(both.min()) - 0.1, float(both.max()) + 0.1, 60).tolist()
    for values, label in (
        (report.row_rms, "decoder's embedding rows"),
        (report.token_rms, "audio tokens"),
    ):
        axis.hist(values.numpy(), bins=bins, density=True, alpha=0.6, label=label)
    axis.set(xscale="log", title="scale", xlabel="RMS", yticks=[])
    axis.legend()


def _square(axis: Any, values: Tensor, title: str) -> None:
    image = axis.imshow(values.numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    axis.set(title=title)
    axis.figure.colorbar(image, ax=axis)


def _inside(axis: Any, projector: Projector, report: ProjectorReport) -> None:
    """Experts' shares; the queries' cosines; else the singular values of the last linear layer."""
    shares = [v for name, v in report.stats.items() if re.fullmatch(r"share_\d+", name)]
    if shares:
        axis.bar(range(len(shares)), shares)
        axis.axhline(1 / len(shares), color="black", linestyle="--", label="even")
        axis.set(title="share of the frames", xlabel="expert", xticks=range(len(shares)))
        axis.legend()
    elif isinstance(projector, QFormer):
        _square(axis, cosines(projector.queries.detach().cpu()), "cosine of the learned queries")
    else:
        last = [p for p in projector.parameters() if p.dim() == 2][-1]
        axis.semilogy(torch.linalg.svdvals(last.detach().float().cpu()).numpy())
        axis.set(title="singular values of the last linear layer", xlabel="direction")


def _weights(axis: Any, report: ProjectorReport) -> None:
    largest = sorted(report.weights.items(), key=lambda item: -item[1])[:20]
    axis.barh([name for name, _ in largest], [value for _, value in largest])
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=7)
    axis.set(title="RMS of the weights", xscale="log")
