"""The verdict above the charts, and the data of the charts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

from PIL import Image, ImageOps

from engine.config import parse
from engine.data.doctor.check import check as check_set
from engine.demo.sets import make_demo_set
from engine.evaluation.causes import Cause
from engine.evaluation.run_verdict import verdict_of
from engine.evaluation.verdict import Kind, Verdict
from engine.jobs.events import Checked
from engine.jobs.snapshot import JobSnapshot
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from ui.train.chart import CHANGED, FOLLOWS, PAUSED, SAVED
from ui.train.curves import HELD_OUT, TRAINED, fixed_loss_rows, gain_rows
from ui.train.verdict import SIGNS, marks_of, verdict_html

CURVES = Path(__file__).parents[2] / "evaluation" / "curves"


def check(step: int, loss: float, share: float) -> Checked:
    return Checked(step, 8 * step, loss, 0.9 * loss, share * loss, share, share / 9, 0.2, 0.1)


CHECKS = [check(0, 0.02, 0.0), check(50, 0.01, 0.25), check(100, 0.015, 0.5)]


def test_text_of_a_dataset_is_escaped() -> None:
    html = verdict_html(
        Verdict(
            "ignored", "The maps of <b>x</b> are blank.", ("a < b",), (Cause("look & see", "doctor"), Cause("less"))
        )
    )
    assert "<b>x</b>" not in html
    assert "a &lt; b" in html and "<li>look &amp; see " in html and "<li>less</li>" in html
    assert html.count("<button") == html.count("tab-dataset-button") == 1, "a link only where there is a place to look"
    assert "class='verdict bad'" in html


def test_the_verdict_suggests_the_dataset_check_and_then_names_its_findings(workspace: Workspace) -> None:
    """Combine the checks of a recorded run on such maps with a dataset whose every fourth map is inverted."""
    dataset = make_demo_set(workspace, "circles", 16)
    for number, sample in enumerate(dataset.samples()):
        if number % 4 == 0:
            path = dataset.condition_path(sample)
            ImageOps.invert(Image.open(path).convert("RGB")).save(path)
    recorded = json.loads((CURVES / "quarter.json").read_text(encoding="utf-8"))
    checks = [Checked(**(entry | {"step": int(entry["step"])})) for entry in recorded["checks"]]
    config = recorded["settings"] | {"data": recorded["settings"]["data"] | {"dataset": dataset.name}}
    run = create_run(workspace, parse(config), {})
    history = JobSnapshot(checks=tuple(checks), run_folder=run.folder)

    before = verdict_of(history, workspace.datasets)
    assert before is not None and before.kind == "ignored"
    assert "16 training pairs are not many" in before.causes[0].text, "they are; the recorded run had more"
    assert "blank, inverted, or belong to other images: check the dataset" in before.causes[1].text
    assert "dataset-check-button" in verdict_html(before)
    check_set(dataset, config["data"]["resolution"])
    after = verdict_of(history, workspace.datasets)
    assert after is not None and after.causes[0].text == "The dataset check found 4 control images that are inverted."
    assert "dataset-check-button" in verdict_html(after)


def test_every_kind_of_verdict_has_a_sign() -> None:
    assert set(SIGNS) == set(get_args(Kind))


def test_causes_are_listed_only_if_there_are_any() -> None:
    assert "Likely causes" not in verdict_html(Verdict("improving", "Usable.", ("Gain 20 %.",)))


def test_the_gain_is_drawn_in_percent_of_held_out_and_training_pairs() -> None:
    newer = replace(CHECKS[2], training_share=0.75)
    rows = gain_rows([*CHECKS[:2], newer])
    drawn = list(zip(rows["step"], rows["percent"], rows["line"], strict=True))
    assert drawn == [(0, 0.0, HELD_OUT), (50, 25.0, HELD_OUT), (100, 50.0, HELD_OUT), (100, 75.0, TRAINED)]


def test_the_charts_mark_what_happened() -> None:
    changes = ((75, "learning rate 1e-05 → 5e-06"), (75, "steps 100 → 200"), (90, "memory ran out: 1 at a time"))
    history = JobSnapshot(kept=(50, 100), pauses=(75,), changes=changes)
    marks = marks_of(history, Verdict("improving", "Usable.", follows_since=50))
    assert marks == {FOLLOWS: (50,), SAVED: (50, 100), PAUSED: (75,), CHANGED: (75, 90)}
    assert marks_of(history, None)[FOLLOWS] == ()


def test_losses_are_drawn_as_changes_since_the_start() -> None:
    rows = fixed_loss_rows(CHECKS)
    held_out = [round(p) for p, line in zip(rows["percent"], rows["line"], strict=True) if line == HELD_OUT]
    assert held_out == [0, -50, -25]
    assert rows["line"].count(TRAINED) == 3


def test_without_checks_the_charts_are_empty() -> None:
    assert gain_rows([]) == fixed_loss_rows([]) == {"step": [], "percent": [], "line": []}
