"""Charts drawn on the server: their contents, and that names in them are escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from ui.train.chart import CHANGED, FOLLOWS, MAX_DOTS, MAX_POINTS, PAUSED, SAVED, figure, line_chart, ticks

COLOURS = {"each step": "#94a3b8", "smoothed": "#0f766e"}


def chart(points: list[tuple[int, float | None, str]], **options: object) -> str:
    rows = {"step": [p[0] for p in points], "loss": [p[1] for p in points], "line": [p[2] for p in points]}
    return line_chart(rows, "step", "loss", "line", COLOURS, "Loss", "Loss", **options)  # type: ignore[arg-type]


def drawn(html: str) -> list[list[tuple[float, float]]]:
    """Return the points of each line, x to the right and y upwards, from 0 to 1."""
    lines = re.findall(r"<polyline [^>]*points='([^']*)'", html)
    return [[(float(x) / 1000, 1 - float(y) / 1000) for x, y in (p.split(",") for p in line.split())] for line in lines]


def test_a_line_is_where_its_values_say() -> None:
    (line,) = drawn(chart([(0, 0.0, "smoothed"), (50, 0.5, "smoothed"), (100, 1.0, "smoothed")]))
    assert [n for point in line for n in point] == pytest.approx([0, 0, 0.5, 0.5, 1, 1])


def test_without_points_there_is_no_chart() -> None:
    assert chart([]) == ""
    assert chart([(1, None, "smoothed"), (2, float("nan"), "smoothed"), (3, float("inf"), "smoothed")]) == ""
    assert line_chart({}, "step", "loss", "line", COLOURS, "Loss", "Loss") == ""


def test_one_point_and_equal_points_are_drawn() -> None:
    assert len(drawn(chart([(1, 0.5, "smoothed")]))[0]) == 2
    assert drawn(chart([(0, 0.0, "smoothed"), (0, 0.0, "smoothed")])) == [[(0, 0), (0, 0)]]


def test_a_fixed_range_is_kept_and_points_outside_widen_it() -> None:
    assert drawn(chart([(0, 0.5, "smoothed"), (1, 0.5, "smoothed")], y_range=(0, 1)))[0][0][1] == pytest.approx(0.5)
    assert max(y for _, y in drawn(chart([(0, 0, "smoothed"), (1, 2, "smoothed")], y_range=(0, 1)))[0]) <= 1


def test_lines_differ_by_more_than_colour_and_have_a_text_label() -> None:
    html = chart([(1, 0.5, "each step"), (1, 0.25, "smoothed"), (2, 0.125, "smoothed")])
    assert len(set(re.findall(r"stroke-dasharray='([^']*)' points", html))) == 2
    label = re.search(r"aria-label='([^']*)'", html)
    assert label and "smoothed: 0.125 at step 2" in label[1]


def test_a_long_run_stays_a_small_chart() -> None:
    html = chart([(n, n / 10_000, "smoothed") for n in range(10_000)])
    (line,) = drawn(html)
    assert len(line) <= MAX_POINTS and line[-1][0] == pytest.approx(9999 / 10_000, abs=1e-3)
    assert len(html) < 20_000 and html.count("<b style") == 0
    assert chart([(n, 1.0, "smoothed") for n in range(MAX_DOTS)]).count("<b style") == MAX_DOTS


def test_names_are_escaped() -> None:
    evil = "'><img src=x onerror=alert(1)>"
    rows = {"step": [1, 2], "loss": [0.1, 0.2], "line": [evil, evil]}
    html = line_chart(rows, "step", "loss", "line", {evil: evil}, evil, evil)
    tags = {element.tag for element in ElementTree.fromstring(html).iter()}
    assert "img" not in tags and "polyline" in tags


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.003), (-83, 0), (0, 20_000), (0, 0), (5, 5), (-1e-9, 1e-9), (0, 1e12)]
)
def test_ticks_are_few_and_span_the_range(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 9
    assert marks[0] <= low + 1e-12 and marks[-1] >= high - 1e-12
    assert marks == sorted(set(marks))


def test_numbers_are_short() -> None:
    assert [figure(v) for v in (0.0, 0.00123, 0.1234, 1.234, 12.34, 1234.5, -0.5)] == [
        "0.000",
        "0.0012",
        "0.123",
        "1.23",
        "12.3",
        "1,234",
        "−0.500",
    ]


@pytest.mark.parametrize(
    ("top", "labels"),
    [
        (0.0009, ["0", "2e−4", "4e−4", "6e−4", "8e−4", "1e−3"]),
        (0.00012, ["0", "5e−5", "1e−4", "1.5e−4"]),
        (-0.0002, ["−2e−4", "−1.5e−4", "−1e−4", "−5e−5", "0"]),
        (0.02, ["0.000", "0.005", "0.010", "0.015", "0.020"]),
    ],
)
def test_labels_of_tiny_numbers_fit_next_to_the_chart(top: float, labels: list[str]) -> None:
    html = chart([(0, 0.0, "smoothed"), (100, top, "smoothed")])
    left = html[html.index("class='up'") : html.index("class='area'")]
    assert re.findall(r">([^<>]+)</i>", left) == labels
    assert all(len(label) <= 7 for label in labels)


def test_marks_and_images_are_on_the_axis() -> None:
    rows = {"x": [0, 100], "y": [0.0, 1.0], "line": ["a", "a"]}
    more = {"marks": {SAVED: (50, 100, 999), FOLLOWS: (25,), PAUSED: ()}, "images": 48}
    html = line_chart(rows, "x", "y", "line", {"a": "#000"}, "T", "Y", **more)  # type: ignore[arg-type]
    assert html.count("class='mark saved'") == html.count("class='mark follows'") == 2, "in the drawing and the legend"
    assert "paused" not in html
    assert "M500.0 1000v-60M1000.0 1000v-60'" in html, "999 lies beyond the end"
    assert "step 25</b>" in html and "100<br>4.8k" in html


def test_a_likely_range_is_an_area_that_stays_inside() -> None:
    rows = {"x": [0, 10], "y": [0.2, 0.8], "line": ["a", "a"]}
    band = [(0, -0.5, 0.4), (10, 0.6, 1.7)]
    html = line_chart(rows, "x", "y", "line", {"a": "#000"}, "T", "Y", (0, 1), band=band)
    assert "likely range" in html
    assert "points='0.0,600.0 1000.0,0.0 1000.0,400.0 0.0,1000.0'" in html


def test_changed_settings_are_marked_with_what_changed_under_the_mouse() -> None:
    notes = [(20, "learning rate 1e-05 → 5e-06"), (20, "<b>memory</b>"), (400, "beyond the end")]
    html = chart([(n, 1.0, "smoothed") for n in range(101)], marks={CHANGED: (20,)}, notes=notes)
    assert html.count("<path class='mark changed'") == 2, "in the drawing and in the legend"
    assert "settings changed <b>step 20</b>" in html
    label = re.search(r"aria-label='([^']*)'", html)
    assert label and "at step 20: learning rate 1e-05 → 5e-06" in label[1]
    (strip,) = re.findall(r"<s [^>]*>", html)
    assert "left:20.00%" in strip and "title='20: learning rate 1e-05 → 5e-06; &lt;b&gt;memory&lt;/b&gt;'" in strip
