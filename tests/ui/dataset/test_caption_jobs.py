"""The Captions and Crops panels: small datasets are changed at once, large ones by a job."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.workspace.paths import Workspace
from ui.dataset import caption_jobs, crops_panel
from ui.page.context import AppContext
from ui.page.side_jobs import SideRunner

NO_FIELDS: dict[str, Any] = {
    "search": "",
    "by": "",
    "regex": False,
    "case": False,
    "words": True,
    "prefix": "",
    "suffix": "",
    "trigger": "",
    "template": "",
    "only_empty": True,
}


@pytest.fixture
def context(workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]) -> AppContext:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in photos.items():
        Image.fromarray(image).resize((192, 128)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("" if name == "coffee" else f"a {name} & more", encoding="utf-8")
    Dataset.create(workspace, "photos", scan_folder(folder))
    return AppContext(workspace)


def captions(context: AppContext) -> list[str]:
    return [sample.caption for sample in caption_jobs.open_dataset(context, "photos").samples()]


def test_a_change_is_previewed_applied_and_undone(context: AppContext) -> None:
    before = captions(context)
    fields = {**NO_FIELDS, "search": "A", "by": "one"}
    caption_jobs.preview(context, SideRunner(context), "photos", caption_jobs.REPLACE, fields)
    seen = context.results[caption_jobs.KIND]
    assert seen.note == "3 of 4 captions would change." and len(seen.facts) == 3 and captions(context) == before
    assert "one astronaut &amp; more" in caption_jobs.result_html(seen.note, seen.facts), "escaped"
    caption_jobs.apply(context, SideRunner(context), "photos", caption_jobs.REPLACE, fields)
    assert captions(context)[0] == "one astronaut & more" and not context.runner.alive
    listed, possible = caption_jobs.history(context, "photos")
    assert possible and "3 captions" in listed
    caption_jobs.undo(context, "photos")
    assert captions(context) == before and not caption_jobs.history(context, "photos")[1]


def test_large_sets_are_changed_by_a_job(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_jobs, "AT_ONCE", 3)
    caption_jobs.apply(context, SideRunner(context), "photos", caption_jobs.ADD, {**NO_FIELDS, "trigger": "sks"})
    assert context.runner.wait(20) and context.runner.snapshot.kind == caption_jobs.KIND
    assert context.runner.snapshot.outcome == "completed" and all(c.startswith("sks") for c in captions(context))


@pytest.mark.parametrize("operation", [name for _, name in caption_jobs.OPERATIONS])
def test_every_operation_of_the_list_is_known(context: AppContext, operation: str) -> None:
    fields = {**NO_FIELDS, "search": "a", "by": "b", "prefix": "x", "template": "{name}"}
    caption_jobs.apply(context, SideRunner(context), "photos", operation, fields)
    assert "changed" in context.results[caption_jobs.KIND].note


def test_mistakes_are_reported_before_a_job_starts(context: AppContext) -> None:
    for operation, fields in (("replace", {}), ("add", {}), ("template", {"template": "{nam}"})):
        with pytest.raises(UserError):
            caption_jobs.apply(context, SideRunner(context), "photos", operation, {**NO_FIELDS, **fields})
    assert context.runner.snapshot.kind == ""


def test_a_click_before_the_list_is_filled_uses_the_dataset_in_focus(context: AppContext, tmp_path: Path) -> None:
    caption_jobs.apply(context, SideRunner(context), None, "add", {**NO_FIELDS, "prefix": "photo of"})
    assert captions(context)[0].startswith("photo of")
    with pytest.raises(UserError, match="No dataset"):
        caption_jobs.undo(AppContext(Workspace(tmp_path / "nothing yet")), None)


def test_the_fraction_of_images_without_a_prompt_includes_empty_captions(context: AppContext) -> None:
    context.set_draft("cpu", {"objective": {"prompt_dropout": 0.2}})
    text = caption_jobs.summary(context, "photos")
    assert "4 captions" in text and "1 empty" in text and "25% of the captions are empty" in text
    assert "40% of its images without a prompt" in text, "0.2 hidden, and a quarter of the rest empty"


@pytest.mark.answers("Heads are cut off")
def test_crops_are_counted_and_shown(context: AppContext) -> None:
    assert "33% of" in crops_panel.render_table(context, "photos", (64, "centre", False))
    table = crops_panel.render_table(context, "photos", (512, "centre", True))
    assert "640 x 384" in table and "<td>4</td>" in table
    gallery, _, turn = crops_panel.render_examples(context, "photos", (192, "smart", True), 0)
    assert turn == 1 and len(gallery.value) == 4
    with pytest.raises(UserError, match="crop settings"):
        crops_panel.render_table(context, "photos", (65, "centre", False))


def test_crop_settings_are_applied_to_the_next_run(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.Info", lambda text: None)
    crops_panel.apply_draft(context, (192, "random", True))
    data = context.config_of(context.draft)[0].data
    assert (data.resolution, data.crop, data.buckets, data.dataset) == (192, "random", True, "photos")
    assert crops_panel.draft_values(context) == [192, "random", True]


def test_a_slow_change_can_be_cancelled_also_while_another_job_runs(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(sample: Sample) -> str:
        time.sleep(0.2)
        return "new"

    before = captions(context)
    monkeypatch.setattr(caption_jobs, "change_of", lambda *_: ("Slow", slow))
    monkeypatch.setattr(caption_jobs, "WAIT_SECONDS", 0)
    side, ended = SideRunner(context), threading.Event()
    context.runner.start("other", "Something else", lambda token, emit: "completed" if ended.wait(20) else "failed")
    caption_jobs.apply(context, side, "photos", caption_jobs.REPLACE, NO_FIELDS)
    assert side.alive and side.cancel()
    assert side.wait(20) and side.snapshot.outcome == "cancelled" and captions(context) == before
    assert context.results[caption_jobs.KIND].note == "Cancelled. No caption was changed."
    assert context.runner.alive and not context.runner.snapshot.asked, "the other job goes on"
    ended.set()


def test_a_slow_change_that_fails_is_told_on_the_problem_panel(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(sample: Sample) -> str:
        raise UserError("The search was stopped.", "It is slow.", "Simplify it.")

    monkeypatch.setattr(caption_jobs, "change_of", lambda *_: ("Slow", failing))
    side = SideRunner(context)
    caption_jobs.apply(context, side, "photos", caption_jobs.REPLACE, NO_FIELDS)
    problem = context.view().problem
    assert side.wait(20) and problem is not None and problem.what == "The search was stopped."
