"""Line charts as plain SVG, drawn on the server and not in the browser.

A JavaScript charting library took half a CPU core while a run was watched, and leaked memory on a page that stays open
for days. This is a few kilobytes of text that the browser shows and forgets. All text in it is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Point = tuple[float, float]

MAX_DOTS = 60  # a line of at most so many points gets dots that show their values under the mouse
MAX_POINTS = 600  # of one line; more are thinned out, except for the last one
SIDE = 1000.0  # of the drawing, in its own units; it is stretched to its box while lines keep their width
FOLLOWS, SAVED, PAUSED = "follows the control image", "saved", "paused"
CHANGED = "settings changed"
MARKS = {FOLLOWS: ("follows", 1.0), SAVED: ("saved", 0.06), PAUSED: ("paused", 1.0), CHANGED: ("changed", 1.0)}
"""What can happen at a step: the CSS class of its mark, and the height of the mark as a fraction."""
MAX_MARKS = 200
SPOKEN_NOTES = 5
DASHES = ("", "6 4", "2 3")  # so that lines differ by more than their colour
GREY = "#64748b"


@dataclass(frozen=True)
class Axes:
    """The ticks of both axes, and the ends of the drawing."""

    across: list[float]
    up: list[float]
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @classmethod
    def around(cls, lines: Mapping[str, list[Point]], y_range: tuple[float, float] | None) -> Axes:
        """Return axes that hold all points. Both include zero unless ``y_range`` says otherwise."""
        xs = [x for points in lines.values() for x, _ in points]
        ys = [y for points in lines.values() for _, y in points]
        across, up = ticks(min(0.0, *xs), max(xs)), ticks(*(y_range or (min(0.0, *ys), max(0.0, *ys))))
        return cls(across, up, (min(across[0], *xs), max(across[-1], *xs)), (min(up[0], *ys), max(up[-1], *ys)))

    def place(self, x: float, y: float) -> Point:
        """Return a point in fractions of the drawing, from its lower left corner."""
        (left, right), (bottom, top) = self.x_range, self.y_range
        return (x - left) / (right - left), (y - bottom) / (top - bottom)

    def path(self, points: Sequence[Point]) -> str:
        """Return points as SVG coordinates."""
        return " ".join(f"{_at(a)},{_at(1 - b)}" for a, b in (self.place(*point) for point in points))

    def labels(self, images: int) -> tuple[str, str]:
        """Return the HTML of the labels of the y and of the x axis. ``images``: images per step, or 0."""
        decimals = _decimals(self.up)
        left = "".join(f"<i style='bottom:{self.place(0, y)[1]:.2%}'>{_y_label(y, decimals)}</i>" for y in self.up)
        below = "".join(
            f"<i style='left:{self.place(x, 0)[0]:.2%}'>{_x_label(x, self.across, images)}</i>" for x in self.across
        )
        return left, below


def line_chart(
    rows: Mapping[str, Sequence[Any]],
    x: str,
    y: str,
    line: str,
    colours: Mapping[str, str],
    title: str,
    y_title: str,
    y_range: tuple[float, float] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
    images: int = 0,
    band: Sequence[tuple[float, float, float]] = (),
    notes: Sequence[tuple[float, str]] = (),
) -> str:
    """Return the HTML of a chart of columns ``x`` and ``y``, with a line for each name in the column ``line``.

    Args:
        rows: columns of equal length. Points without a finite y are left out.
        colours: colour by name of the line, in the order of the legend. Lines without points are not listed.
        y_range: lower and upper end. By default from the data, including zero.
        marks: places on the x axis by what happened there, one of MARKS. Only the newest are drawn if there are many.
        images: images per step. If given, the x axis shows steps and images.
        band: (x, low, high) of the first line's likely range, drawn as an area.
        notes: (x, text) of what happened there, shown under the mouse.

    Returns:
        HTML, or an empty string if there is no point.
    """
    lines = _lines(rows, x, y, line, colours)
    if not lines:
        return ""
    axes = Axes.around(lines, y_range)
    grid = "".join(f"<path d='M0 {_at(1 - axes.place(0, value)[1])}H{SIDE:g}'/>" for value in axes.up)
    curves, dots, legend = [], [], []
    for number, (name, points) in enumerate(lines.items()):
        colour, dashes = colours.get(name, GREY), DASHES[number % len(DASHES)]
        style = f"stroke='{escape(colour)}' stroke-dasharray='{dashes}'"
        path = axes.path(points)
        path = f"{path} {path}" if len(points) == 1 else path  # the round line ends make a dot
        curves.append(f"<polyline {style} points='{path}'/>")
        if len(points) <= MAX_DOTS:
            dots += [_dot(axes.place(*point), name, point, colour) for point in points]
        legend.append(_legend_entry(f"{style} d='M1 4H23'", name, figure(points[-1][1])))
    below, named = _marks(marks or {}, *axes.x_range)
    if len(band) > 1:
        below.append(_band(axes, band))
        named.append("<li><span class='band'></span>likely range</li>")
    left, across = axes.labels(images)
    unit = "<p class='unit'>step<br>images</p>" if images else ""
    spoken = "; ".join(f"{name}: {figure(found[-1][1])} at {x} {found[-1][0]:,g}" for name, found in lines.items())
    spoken = "; ".join([spoken, *(f"at {x} {at:,g}: {text}" for at, text in list(notes)[-SPOKEN_NOTES:])])
    return (
        f"<figure class='chart' role='img' aria-label='{escape(f'{title}. {spoken}')}'>"
        f"<figcaption>{escape(title)}</figcaption><ul class='legend'>{''.join([*legend, *named])}</ul>"
        f"<div class='plot{' two' if images else ''}'>"
        f"<div class='up' title='{escape(y_title)}'>{left}</div><div class='area'>"
        f"<svg viewBox='0 0 {SIDE:g} {SIDE:g}' preserveAspectRatio='none' aria-hidden='true'>"
        f"<g class='grid'>{grid}</g>{''.join([*below, *curves])}</svg>{_notes(notes, axes)}{''.join(dots)}</div>"
        f"<div class='across'>{across}</div>{unit}</div></figure>"
    )


def _lines(
    rows: Mapping[str, Sequence[Any]], x: str, y: str, line: str, colours: Mapping[str, str]
) -> dict[str, list[Point]]:
    """Return the points of each line that has any, thinned out."""
    points: dict[str, list[Point]] = {name: [] for name in colours}
    for at, value, name in zip(rows.get(x, ()), rows.get(y, ()), rows.get(line, ()), strict=True):
        if value is not None and math.isfinite(value):
            points.setdefault(str(name), []).append((float(at), float(value)))
    return {name: thinned(found) for name, found in points.items() if found}


def _band(axes: Axes, band: Sequence[tuple[float, float, float]]) -> str:
    """Return the area of a likely range, cut off at the ends of the drawing."""
    edge = [(at, top) for at, _, top in band] + [(at, bottom) for at, bottom, _ in reversed(band)]
    inside = ((a, min(max(b, 0.0), 1.0)) for a, b in (axes.place(*point) for point in edge))
    return f"<polygon class='band' points='{' '.join(f'{_at(a)},{_at(1 - b)}' for a, b in inside)}'/>"


def _marks(marks: Mapping[str, Sequence[float]], low: float, high: float) -> tuple[list[str], list[str]]:
    """Return the vertical lines of the marks, and their entries in the legend."""
    drawn, legend = [], []
    for name, places in marks.items():
        inside = [at for at in places if low <= at <= high][-MAX_MARKS:]
        if not inside:
            continue
        kind, reach = MARKS[name]
        path = "".join(f"M{_at((at - low) / (high - low))} {SIDE:g}v{-reach * SIDE:g}" for at in inside)
        drawn.append(f"<path class='mark {kind}' d='{path}'/>")
        where = f"step {inside[-1]:,g}" if len(inside) == 1 else ""
        legend.append(_legend_entry(f"class='mark {kind}' d='M12 0V8'", name, where))
    return drawn, legend


def _notes(notes: Sequence[tuple[float, str]], axes: Axes) -> str:
    """Return strips over the height of the drawing that show the notes of their places under the mouse."""
    texts: dict[float, list[str]] = {}
    low, high = axes.x_range
    for at, text in notes:
        if low <= at <= high:
            texts.setdefault(at, []).append(text)
    strips = (
        f"<s style='left:{axes.place(at, 0)[0]:.2%}' title='{escape(f'{at:,g}: ' + '; '.join(found))}'></s>"
        for at, found in list(texts.items())[-MAX_MARKS:]
    )
    return "".join(strips)


def _legend_entry(path: str, name: str, value: str) -> str:
    """Return an entry of the legend. ``path``: attributes of its sign."""
    sign = f"<svg viewBox='0 0 24 8' aria-hidden='true'><path {path}/></svg>"
    return f"<li>{sign}{escape(name)}{f' <b>{value}</b>' if value else ''}</li>"


def _dot(at: Point, name: str, point: Point, colour: str) -> str:
    text = escape(f"{name}: {figure(point[1])} at {point[0]:,g}")
    return f"<b style='left:{at[0]:.2%};bottom:{at[1]:.2%};background:{escape(colour)}' title='{text}'></b>"


def _y_label(value: float, decimals: int) -> str:
    """Return a label of the y axis. It has room for five digits: smaller steps get a power of ten, such as 2.5e−4."""
    if decimals <= 3:
        return _label(value, decimals)
    if value == 0:
        return "0"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}".replace("-", "−")


def _x_label(at: float, across: Sequence[float], images: int) -> str:
    """Return a label of the x axis: the step, and below it the number of images."""
    step = _label(at, _decimals(across))
    return f"{step}<br>{short(at * images)}" if images else step


def short(count: float) -> str:
    """Return a large number in few characters: 800, 4.8k, 1.2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def thinned(points: list[Point]) -> list[Point]:
    """Return at most MAX_POINTS points, evenly chosen, including the last one."""
    stride = -(-len(points) // MAX_POINTS)
    return points[::-1][:: max(1, stride)][::-1]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers (multiples of 1, 2 or 5 times a power of ten) that span ``low`` to ``high``."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def figure(value: float) -> str:
    """Return a number with three significant digits, at most four decimals; a very small one as a power of ten."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}".replace("-", "−")
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return _label(value, decimals if abs(value) >= 0.01 or value == 0 else 4)


def _decimals(values: Sequence[float]) -> int:
    step = values[1] - values[0]
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _label(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _at(fraction: float) -> str:
    return f"{SIDE * fraction:.1f}"
