"""The Check panel: its jobs, and its findings as text and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.doctor import fix
from engine.data.doctor.catalogue import BY_NAME
from engine.data.scan import scan_folder
from engine.workspace.paths import Workspace
from tests.data.doctor.planted import photographs, write
from ui.dataset import check_jobs
from ui.page.context import AppContext


@pytest.fixture
def context(workspace: Workspace, tmp_path: Path) -> AppContext:
    for number, photo in zip(range(3), photographs(), strict=False):
        write(tmp_path / "set" / "images" / f"<{number}>.png", photo)
        edges = np.zeros_like(photo)
        edges[40:60, 30:90] = edges[100:104] = 255
        write(tmp_path / "set" / "conditions" / f"<{number}>.png", np.roll(edges, 20 * number, 0))
    Image.new("RGB", (256, 256)).save(tmp_path / "set" / "conditions" / "<2>.png")
    Dataset.create(workspace, "set", scan_folder(tmp_path / "set"))
    context = AppContext(workspace)
    context.set_draft("", {"data": {"resolution": 256, "held_out": 1}})
    return context


def test_a_finding_is_found_excluded_and_taken_back(context: AppContext) -> None:
    context.start_job("doctor", "Checking", check_jobs.check(context, "set"))
    assert context.runner.wait(120) and context.runner.snapshot.outcome == "completed"
    dataset = check_jobs.open_dataset(context, "set")
    states = fix.states(dataset)
    (state,) = (state for state in states if state.finding.name == "map_blank")
    assert ("‼  Empty map (1)", "map_blank") in check_jobs.choices(states, 3)
    assert "Checked" in check_jobs.summary(dataset, states) and "at 256 px" in check_jobs.summary(dataset, states)
    assert "Why it matters" in check_jobs.details(state)
    hits = check_jobs.hits_to_show(dataset, state.finding)
    ((image, words),) = check_jobs.examples(context, dataset, state.finding, hits)
    assert image.size == (3 * 168 - 8, 160) and "images/<2>.png" in words
    seen, words, number = check_jobs.image_seen(dataset, hits, 5, CropPlan(256))
    assert seen is not None and number == 0 and "&lt;2&gt;" in words and "<2>" not in words
    check_jobs.exclude(context, "set", "map_blank")
    assert dataset.count() == 2 and check_jobs.hits_to_show(dataset, state.finding)[0].detail == "left out"
    assert "changed since" in check_jobs.summary(dataset, fix.states(dataset))
    check_jobs.undo(context, "set", "map_blank")
    assert dataset.count() == 3


def test_browsing_images_wraps_around_and_reports_missing_files(context: AppContext, tmp_path: Path) -> None:
    dataset = check_jobs.open_dataset(context, "set")
    assert "Not checked yet" in check_jobs.summary(dataset, [])
    assert [check_jobs.image_seen(dataset, None, at, CropPlan(64))[2] for at in (0, 2, 3, -1)] == [0, 2, 0, 2]
    (tmp_path / "set" / "images" / "<0>.png").unlink()
    image, words, _ = check_jobs.image_seen(dataset, None, 0, CropPlan(64))
    assert image is None and "no longer there" in words
    assert check_jobs.examples(context, dataset, BY_NAME["blurred"], [fix.Hit("blurred", "images/gone.png")]) == []
