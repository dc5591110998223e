"""Line charts as plain SVG, drawn here and not in the browser.

A charting library in the page took half a processor core while a run was watched, and a page that stays open for days
kept its leftovers. This is a few kilobytes of text that the browser shows and forgets. Everything that is written into
it is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

FEW = 60  # so many points of a line get a dot with their figures, which a mouse can ask for
MOST = 600  # points of one line; more are thinned, the last one always stays
UNIT = 1000.0  # side of the drawing; it is stretched to its box, and lines keep their width
BEGINS, SAVED, PAUSED = "follows the control image", "saved", "paused"
MARKS = {BEGINS: ("begins", 1.0), SAVED: ("saved", 0.06), PAUSED: ("paused", 1.0)}
"""What may happen at a step: the mark's class in style.css, and how far it reaches up."""
MOST_MARKS = 200
DASHES = ("", "6 4", "2 3")  # lines differ by more than their colour


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
) -> str:
    """HTML of a chart of columns ``x`` and ``y``, one line for each name in the column ``line``.

    Args:
        rows: columns of equal length; points without a finite y are left out.
        colours: colour by the line's name, in the order of the legend; lines without points are not listed.
        y_range: lower and upper end; default: from the data, zero always among it.
        marks: places on the x axis by what happened there, one of MARKS; the newest ones where there are many.
        images: how many one step sees; the axis then says both.
        band: (x, low, high) of the first line's likely range, drawn as an area.

    Returns:
        HTML, empty where there is no point at all.
    """
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in colours}
    for at, value, name in zip(rows.get(x, ()), rows.get(y, ()), rows.get(line, ()), strict=True):
        if value is not None and math.isfinite(value):
            points.setdefault(str(name), []).append((float(at), float(value)))
    shown = {name: thinned(found) for name, found in points.items() if found}
    if not shown:
        return ""
    xs = [at for found in shown.values() for at, _ in found]
    ys = [value for found in shown.values() for _, value in found]
    across, up = ticks(min(0.0, *xs), max(xs)), ticks(*(y_range or (min(0.0, *ys), max(0.0, *ys))))
    low, high = (min(across[0], *xs), max(across[-1], *xs)), (min(up[0], *ys), max(up[-1], *ys))

    def place(at: float, value: float) -> tuple[float, float]:
        return (at - low[0]) / (low[1] - low[0]), (value - high[0]) / (high[1] - high[0])

    grid = "".join(f"<path d='M0 {_at(1 - place(0, value)[1])}H{UNIT:g}'/>" for value in up)
    drawn, dots, legend = [], [], []
    for number, (name, found) in enumerate(shown.items()):
        style = f"stroke='{escape(colours.get(name, '#64748b'))}' stroke-dasharray='{DASHES[number % len(DASHES)]}'"
        path = " ".join(f"{_at(a)},{_at(1 - b)}" for a, b in (place(*point) for point in found))
        path = f"{path} {path}" if len(found) == 1 else path  # round ends make a dot of it
        drawn.append(f"<polyline {style} points='{path}'/>")
        if len(found) <= FEW:
            dots += [_dot(place(*point), name, point, colours.get(name, "#64748b")) for point in found]
        key = f"<svg viewBox='0 0 24 8' aria-hidden='true'><path {style} d='M1 4H23'/></svg>"
        legend.append(f"<li>{key}{escape(name)} <b>{figure(found[-1][1])}</b></li>")
    lines, named = _marks(marks or {}, *low)
    if len(band) > 1:
        edge = [(at, top) for at, _, top in band] + [(at, bottom) for at, bottom, _ in reversed(band)]
        inside = ((a, min(max(b, 0.0), 1.0)) for a, b in (place(*point) for point in edge))
        lines.append(f"<polygon class='band' points='{' '.join(f'{_at(a)},{_at(1 - b)}' for a, b in inside)}'/>")
        named.append("<li><span class='band'></span>likely range</li>")
    drawn, legend = [*lines, *drawn], [*legend, *named]
    steps = _decimals(up)
    left = "".join(f"<i style='bottom:{place(0, v)[1]:.2%}'>{_beside(v, steps)}</i>" for v in up)
    below = "".join(f"<i style='left:{place(a, 0)[0]:.2%}'>{_below(a, across, images)}</i>" for a in across)
    unit = "<p class='unit'>step<br>images</p>" if images else ""
    said = "; ".join(f"{name}: {figure(found[-1][1])} at {x} {found[-1][0]:,g}" for name, found in shown.items())
    return (
        f"<figure class='chart' role='img' aria-label='{escape(f'{title}. {said}')}'>"
        f"<figcaption>{escape(title)}</figcaption><ul class='legend'>{''.join(legend)}</ul>"
        f"<div class='plot{' two' if images else ''}'>"
        f"<div class='up' title='{escape(y_title)}'>{left}</div><div class='area'>"
        f"<svg viewBox='0 0 {UNIT:g} {UNIT:g}' preserveAspectRatio='none' aria-hidden='true'>"
        f"<g class='grid'>{grid}</g>{''.join(drawn)}</svg>{''.join(dots)}</div>"
        f"<div class='across'>{below}</div>{unit}</div></figure>"
    )


def _beside(value: float, decimals: int) -> str:
    """A label of the y axis. There is room for five digits: smaller steps are told as powers of ten, as 2.5e−4."""
    if decimals <= 3:
        return _label(value, decimals)
    if value == 0:
        return "0"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}".replace("-", "−")


def _below(at: float, across: Sequence[float], images: int) -> str:
    """A label of the x axis: the step, and below it how many images that is."""
    step = _label(at, _decimals(across))
    return f"{step}<br>{short(at * images)}" if images else step


def short(count: float) -> str:
    """A large number in few letters: 800, 4.8k, 1.2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def _marks(marks: Mapping[str, Sequence[float]], low: float, high: float) -> tuple[list[str], list[str]]:
    """Lines across the drawing, and their entries in the legend."""
    drawn, legend = [], []
    for name, places in marks.items():
        inside = [at for at in places if low <= at <= high][-MOST_MARKS:]
        if not inside:
            continue
        kind, reach = MARKS[name]
        path = "".join(f"M{_at((at - low) / (high - low))} {UNIT:g}v{-reach * UNIT:g}" for at in inside)
        drawn.append(f"<path class='mark {kind}' d='{path}'/>")
        key = f"<svg viewBox='0 0 24 8' aria-hidden='true'><path class='mark {kind}' d='M12 0V8'/></svg>"
        told = f" <b>step {inside[-1]:,g}</b>" if len(inside) == 1 else ""
        legend.append(f"<li>{key}{escape(name)}{told}</li>")
    return drawn, legend


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST points, evenly chosen, the last one among them."""
    stride = -(-len(points) // MOST)
    return points[::-1][:: max(1, stride)][::-1]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from ``low`` or just below to ``high`` or just above."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def figure(value: float) -> str:
    """Three digits that count, at most four behind the point; very small ones as a power of ten."""
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


def _at(share: float) -> str:
    return f"{UNIT * share:.1f}"


def _dot(at: tuple[float, float], name: str, point: tuple[float, float], colour: str) -> str:
    words = escape(f"{name}: {figure(point[1])} at {point[0]:,g}")
    return f"<b style='left:{at[0]:.2%};bottom:{at[1]:.2%};background:{escape(colour)}' title='{words}'></b>"
