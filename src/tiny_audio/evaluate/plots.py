"""Plots as inline SVG: no library, no script, colours from the page's style sheet.

Every plot is a figure with a name, and the same values as a table for those who cannot see it.
Classes s0, s1, ... are the colours of the systems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 232  # in the SVG's own units, about pixels
LEFT, RIGHT, TOP, BOTTOM = 38, 342, 12, 168  # edges of the plotted area
MOST_LABELS = 8  # of more every second is written

Interval = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One system's values (shares) at each place of the x axis; None: no value there.

    intervals: what each may as well be; drawn as whiskers.
    """

    name: str
    values: Sequence[float | None]
    intervals: Sequence[Interval | None] = ()


def bars(title: str, x_name: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    """Bars in groups, one group a label, as a figure."""
    tops = [
        bound
        for one in series
        for bound in [*one.values, *(high for _, high in filter(None, one.intervals))]
        if bound is not None
    ]
    top = _nice(max(tops, default=0.0))
    slot = (RIGHT - LEFT) / max(len(labels), 1)
    width = slot * 0.8 / max(len(series), 1)
    parts = [_axis(top)]
    for g, label in enumerate(labels):
        start = LEFT + slot * (g + 0.1)
        if len(labels) <= MOST_LABELS or g % 2 == 0:
            parts.append(_label(start + slot * 0.4, label, slanted=len(labels) > 4))
        for s, one in enumerate(series):
            value = one.values[g]
            if value is None:
                continue
            x, y = start + width * s, _y(value, top)
            parts.append(
                f'<rect class="s{s}" x="{x:.1f}" y="{y:.1f}" width="{max(width - 1, 1):.1f}" '
                f'height="{BOTTOM - y:.1f}"><title>{escape(one.name)}, {escape(label)}: '
                f"{100 * value:.1f} %</title></rect>"
            )
            interval = one.intervals[g] if one.intervals else None
            if interval is not None:
                low, high = (_y(bound, top) for bound in interval)
                middle = x + width / 2
                parts.append(f'<path class="whisker" d="M{middle:.1f} {low:.1f}V{high:.1f}"/>')
    return _figure(title, parts, x_name, labels, series)


def reliability(title: str, x_name: str, series: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Share of right answers against confidence, with the line on which both are equal."""
    parts = [
        _axis(1.0),
        f'<path class="even" d="M{LEFT} {BOTTOM}L{RIGHT} {TOP}"/>',
        *(_label(_x(share), f"{100 * share:.0f}%", slanted=False) for share in (0, 0.5, 1)),
    ]
    most = max((p.count for _, points in series for p in points), default=1)
    for s, (name, points) in enumerate(series):
        places = [(_x(p.x), _y(p.y, 1.0), p) for p in points]
        if len(places) > 1:
            line = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
            parts.append(f'<path class="line s{s}" d="M{line}"/>')
        parts += [
            f'<circle class="s{s}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{2.5 + 5 * math.sqrt(p.count / most):.1f}"><title>{escape(name)}: {p.count} '
            f"utterances, confidence {100 * p.x:.0f} %, right {100 * p.y:.0f} %</title></circle>"
            for x, y, p in places
        ]
    labels = [f"{name}, {100 * p.x:.0f} %" for name, points in series for p in points]
    values = [p.y for _, points in series for p in points]
    table = _table(x_name, labels, [Series("right", values)])
    return _wrap(title, "".join(parts), table, [name for name, _ in series])


@dataclass(frozen=True)
class Point:
    """A bin of utterances: mean confidence, share that is right, how many."""

    x: float
    y: float
    count: int


def _figure(
    title: str, parts: Sequence[str], x_name: str, labels: Sequence[str], series: Sequence[Series]
) -> str:
    table = _table(x_name, labels, series)
    return _wrap(title, "".join(parts), table, [one.name for one in series])


def _wrap(title: str, drawing: str, table: str, names: Sequence[str]) -> str:
    legend = ""
    if len(names) > 1:
        items = (f'<li><i class="swatch s{s}"></i>{escape(n)}</li>' for s, n in enumerate(names))
        legend = f'<ul class="legend">{"".join(items)}</ul>'
    name = escape(title)
    return (
        f'<figure class="card"><figcaption>{name}</figcaption>{legend}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}; values in the table '
        f'below">{drawing}</svg><details><summary>Values<span class="sr">: {name}</span></summary>'
        f"{table}</details></figure>"
    )


def _table(x_name: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    head = "".join(f'<th scope="col">{escape(one.name)}</th>' for one in series)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{_cell(one, place)}</td>" for one in series)
        + "</tr>"
        for place, label in enumerate(labels)
    )
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">{escape(x_name)}</th>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(one: Series, place: int) -> str:
    value = one.values[place]
    if value is None:
        return "–"
    interval = one.intervals[place] if one.intervals else None
    said = f"{100 * value:.1f} %"
    return said if interval is None else f"{said} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def _axis(top: float) -> str:
    lines = []
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        lines.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
            f'<text x="{LEFT - 4}" y="{y + 3.5:.1f}" text-anchor="end">{100 * value:g}%</text>'
        )
    return "".join(lines)


def _label(x: float, text: str, *, slanted: bool) -> str:
    y = BOTTOM + 14
    where = f'x="{x:.1f}" y="{y}"'
    if slanted:
        where += f' text-anchor="end" transform="rotate(-30 {x:.1f} {y})"'
    else:
        where += ' text-anchor="middle"'
    return f"<text {where}>{escape(text)}</text>"


def _nice(top: float) -> float:
    """The least round number that is at least `top`: its quarters are round too."""
    if top <= 0 or not math.isfinite(top):
        return 1.0
    scale = 10.0 ** math.floor(math.log10(top))
    return next(step * scale for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * scale >= top)


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share


def _y(value: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * min(value / top, 1.0)
