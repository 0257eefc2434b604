"""Plots of the report, drawn by matplotlib as SVG that may stand in the page.

The colours are those of the light page; its style sheet maps them to variables, and so to the
dark ones. The page forbids inline styles and the ids of several drawings would collide, so styles
become attributes and ids go.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 360, 232  # points, which are pixels of the page
EDGES = {"left": 38 / WIDTH, "right": 342 / WIDTH, "top": 220 / HEIGHT, "bottom": 64 / HEIGHT}
INK, SOFT, LINE = "#1b1f24", "#59636e", "#d4d8de"
SYSTEMS = ("#2a6fbb", "#c2570c")
MOST_LABELS = 8  # of more every second is written
_TITLE = "title:"  # begins a group's id that becomes its title, shown under the pointer

Interval = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One system's values (shares) at each label; None: no value there. intervals: whiskers."""

    name: str
    values: Sequence[float | None]
    intervals: Sequence[Interval | None] = ()

    def cell(self, position: int) -> str:
        """The value for people, with its interval."""
        value = self.values[position]
        if value is None:
            return "–"
        interval = self.intervals[position] if self.intervals else None
        bounds = f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else ""
        return f"{100 * value:.1f} %{bounds}"


@dataclass(frozen=True)
class Point:
    """A bin of utterances: mean confidence, share that is right, how many."""

    x: float
    y: float
    count: int


@dataclass(frozen=True)
class Plot:
    """A drawing and the same values as a table, for those who cannot see it."""

    title: str
    systems: Sequence[str]
    svg: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def bars(title: str, x_name: str, labels: Sequence[str], series: Sequence[Series]) -> Plot:
    """Bars in groups, one group a label."""
    figure, axes = _axes()
    width = 0.8 / max(len(series), 1)
    top = 0.0
    for s, one in enumerate(series):
        for position, value in enumerate(one.values):
            if value is None:
                continue
            x = position + (s - (len(series) - 1) / 2) * width
            text = f"{one.name}, {labels[position]}: {100 * value:.1f} %"
            axes.bar(x, value, width * 0.95, color=SYSTEMS[s])[0].set_gid(_TITLE + text)
            interval = one.intervals[position] if one.intervals else None
            if interval is not None:
                axes.plot([x, x], interval, color=INK, linewidth=1.5, solid_capstyle="butt")
            top = max(top, value, interval[1] if interval else 0.0)
    every = 1 if len(labels) <= MOST_LABELS else 2
    axes.set_xticks(range(0, len(labels), every), list(labels)[::every])
    if len(labels) > 4:
        for label in axes.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    axes.set(xlim=(-0.5, max(len(labels), 1) - 0.5), ylim=(0, top * 1.05 or 1.0))
    rows = [[label, *(one.cell(i) for one in series)] for i, label in enumerate(labels)]
    names = [one.name for one in series]
    return Plot(title, names, _svg(figure, title), [x_name, *names], rows)


def reliability(title: str, x_name: str, series: Sequence[tuple[str, Sequence[Point]]]) -> Plot:
    """Share of right answers against confidence, with the line on which both are equal."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 4)))
    most = max((point.count for _, points in series for point in points), default=1)
    pixels = (EDGES["right"] - EDGES["left"]) * WIDTH, (EDGES["top"] - EDGES["bottom"]) * HEIGHT
    for s, (name, points) in enumerate(series):
        axes.plot([p.x for p in points], [p.y for p in points], color=SYSTEMS[s], linewidth=2)
        for p in points:
            size = 5 + 10 * math.sqrt(p.count / most)  # pixels across
            dot = Ellipse((p.x, p.y), size / pixels[0], size / pixels[1], color=SYSTEMS[s])
            text = f"confidence {100 * p.x:.0f} %, right {100 * p.y:.0f} %"
            dot.set_gid(f"{_TITLE}{name}: {p.count} utterances, {text}")
            axes.add_patch(dot)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1))
    axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
    rows = [
        [f"{name}, {100 * p.x:.0f} %", f"{100 * p.y:.1f} %"]
        for name, points in series
        for p in points
    ]
    return Plot(title, [name for name, _ in series], _svg(figure, title), [x_name, "right"], rows)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
    axes = figure.add_subplot()
    figure.subplots_adjust(**EDGES)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
    axes.yaxis.grid(color=LINE, linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.tick_params(length=0, labelsize=11, labelcolor=SOFT)
    axes.tick_params(axis="x", pad=7)
    return figure, axes


def _svg(figure: Figure, title: str) -> str:
    """A drawing as an element of the page: plain attributes, no ids, nothing referred to."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True)
    root = ElementTree.fromstring(text.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}defs")):
                parent.remove(child)
    for element in list(root.iter()):
        element.tag = element.tag.partition("}")[2]  # a namespace is implied within HTML
        for declaration in element.attrib.pop("style", "").split(";"):
            name, _, value = declaration.partition(":")
            if name.strip() and name.strip() != "font":  # the page has its own
                element.set(name.strip(), value.strip())
        element.attrib.pop("clip-path", None)
        name = element.attrib.pop("id", "")
        if name.startswith(_TITLE):
            ElementTree.SubElement(element, "title").text = name.removeprefix(_TITLE)
    root.attrib = {
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "role": "img",
        "aria-label": f"{title}; values in the table below",
    }
    return ElementTree.tostring(root, encoding="unicode")
