"""The data of the charts stays small and keeps the last point."""

from __future__ import annotations

import pytest

from ui.train.curves import ADHERENCE, CONTOURS, LIMIT, likely_range, loss_rows, one_line, score_rows, smoothed, thin


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 12_345])
def test_thinning_keeps_order_and_the_last_point(count: int) -> None:
    points = [(n, float(n)) for n in range(count)]
    thinned = thin(points)
    assert len(thinned) <= LIMIT
    assert thinned == sorted(thinned)
    assert thinned[-1:] == points[-1:]


def test_smoothing_keeps_a_constant_and_follows_a_change() -> None:
    assert [y for _, y in smoothed([(n, 2.0) for n in range(50)])] == pytest.approx([2.0] * 50)
    step = smoothed([(n, 0.0 if n < 50 else 1.0) for n in range(100)], window=5)
    assert step[40][1] < 0.01 < 0.99 < step[99][1]


def test_steps_that_were_trained_again_are_shown_once() -> None:
    rows = loss_rows([(1, 0.5), (2, 0.4), (3, 0.3), (2, 0.2), (3, 0.1)])
    assert (rows["step"][:3], rows["loss"][:3]) == ([1, 2, 3], [0.5, 0.2, 0.1])


def test_rows_for_the_charts() -> None:
    rows = loss_rows([(1, 0.5), (2, 0.25)])
    assert rows["step"] == [1, 2, 1, 2]
    assert one_line([(1, 0.5)], "rate") == {"step": [1], "value": [0.5], "line": ["rate"]}


def test_the_chart_shows_obeys_in_place_of_the_scores_it_is_computed_from() -> None:
    assert score_rows([(5, {"adherence": 0.5, "obeys": 0.6, "new_thing": 0.1})])["what"] == [ADHERENCE, "new thing"]
    assert score_rows([(5, {"obeys": 0.6, "likeness": 0.5})])["what"] == [CONTOURS], "and says where it is a stand-in"
    assert score_rows([(5, {"adherence": 0.5})])["what"] != [ADHERENCE], "a single image has no such number"
    assert likely_range([(0, {}), (5, {"obeys_low": 0.1, "obeys_high": 0.3})]) == [(5, 0.1, 0.3)]
