"""The sentence above the charts, and the rows of the charts."""

from __future__ import annotations

from engine.evaluation.verdict import Verdict
from engine.jobs.events import Checked
from ui.curves import BEGINS, GAIN, HELD_OUT, SAVED, TRAINED, fixed_loss_rows, gain_rows
from ui.verdict import verdict_html


def check(step: int, loss: float, share: float) -> Checked:
    return Checked(step, 8 * step, loss, 0.9 * loss, share * loss, share, share / 9, 0.2, 0.1)


CHECKS = [check(0, 0.02, 0.0), check(50, 0.01, 0.25), check(100, 0.015, 0.5)]


def test_words_of_a_dataset_are_no_markup() -> None:
    html = verdict_html(Verdict("ignored", "The maps of <b>x</b> are blank.", ("a < b",), ("look & see",)))
    assert "<b>x</b>" not in html
    assert "a &lt; b" in html and "<li>look &amp; see</li>" in html
    assert "class='verdict bad'" in html


def test_causes_are_named_only_where_there_are_any() -> None:
    assert "Likely causes" not in verdict_html(Verdict("improving", "Usable.", ("Gain 20 %.",)))


def test_the_gain_is_drawn_in_percent_with_its_marks() -> None:
    rows = gain_rows(CHECKS, listens_since=50, saved=(100,))
    drawn = list(zip(rows["step"], rows["percent"], rows["line"], strict=True))
    assert drawn[:3] == [(0, 0.0, GAIN), (50, 25.0, GAIN), (100, 50.0, GAIN)]
    assert drawn[3:5] == [(0, None, BEGINS), (0, None, SAVED)]
    assert drawn[5:7] == [(50, 0.0, BEGINS), (50, 50.0, BEGINS)]
    assert [(step, line) for step, _, line in drawn[7:]] == [(100, SAVED)] * 3


def test_losses_are_drawn_as_changes_since_the_start() -> None:
    rows = fixed_loss_rows(CHECKS)
    held_out = [round(p) for p, line in zip(rows["percent"], rows["line"], strict=True) if line == HELD_OUT]
    assert held_out == [0, -50, -25]
    assert rows["line"].count(TRAINED) == 3


def test_nothing_measured_gives_empty_charts() -> None:
    assert gain_rows([]) == fixed_loss_rows([]) == {"step": [], "percent": [], "line": []}
