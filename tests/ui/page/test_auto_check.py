"""The dataset check that runs by itself: it gives way to jobs, can be cancelled, and its verdict is told."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.data.dataset import Dataset
from engine.data.doctor.check_store import CheckStore, maps_of
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.jobs.snapshot import JobKind
from engine.queue.data_jobs import ImportDataset
from engine.training.caution import Caution
from engine.workspace.paths import Workspace
from ui.conditions.condition_jobs import make_maps
from ui.dataset.check_panel import render_by_itself
from ui.dataset.import_jobs import import_images
from ui.page import auto_check
from ui.page.auto_check import AutoCheck, CheckState
from ui.page.context import AppContext
from ui.page.states import TrainTabState
from ui.page.view import Draft
from ui.train.cautions import shown_cautions


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_check, "PAUSE_SECONDS", 0.01)


class Work:
    """A check that counts images until it is told to end."""

    def __init__(self) -> None:
        self.busy, self.end, self.begun = threading.Event(), threading.Event(), threading.Event()
        self.times = self.ended = 0
        self.checked: list[str] = []
        self.raises: Exception | None = None
        self.auto = AutoCheck(self.busy.is_set, self.check, self.count)

    def count(self) -> None:
        self.ended += 1

    def check(self, dataset: str, token: CancelToken, progress: OnProgress, workers: int) -> None:
        self.times += 1
        self.checked.append(dataset)
        assert workers >= 1
        progress(self.times, 10, dataset)
        self.begun.set()
        while not self.end.wait(0.005):
            token.raise_if_cancelled()
        if self.raises:
            raise self.raises

    def wait_until_begun(self) -> None:
        assert self.begun.wait(60)
        self.begun.clear()


def test_it_gives_way_to_a_job_and_goes_on_afterwards() -> None:
    work = Work()
    work.busy.set()
    work.auto.begin("cats")
    assert work.auto.state == CheckState("cats") and not work.begun.wait(0.05), "it waits for the job that reads"
    work.busy.clear()
    work.wait_until_begun()
    assert (work.auto.state.done, work.auto.state.total) == (1, 10)
    work.busy.set()
    work.end.wait(0.05)
    work.busy.clear()
    work.wait_until_begun()
    work.end.set()
    assert work.auto.wait(60) and work.times == 2 and work.ended == 1
    assert work.auto.state == CheckState(ended=1) and not work.auto.state.alive


def test_the_newest_comes_first_the_others_follow_and_a_cancel_ends_all() -> None:
    work = Work()
    work.auto.begin("cats")
    work.wait_until_begun()
    work.auto.begin("dogs")
    work.wait_until_begun()
    assert work.auto.state.dataset == "dogs"
    work.end.set()
    assert work.auto.wait(60) and work.ended == 2 and work.checked[-2:] == ["dogs", "cats"]

    work = Work()
    for name in ("cats", "dogs"):
        work.auto.begin(name)
        work.wait_until_begun()
    work.auto.cancel()
    assert work.auto.wait(60) and not work.auto.state.alive and work.ended == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("The disk is full.", "No space.", "Free some."), "The disk is full. No space."),
        (KeyError("x"), "KeyError"),
    ],
)
def test_a_failure_is_told_on_the_check_panel(workspace: Workspace, error: Exception, words: str) -> None:
    work = Work()
    work.raises = error
    work.end.set()
    work.auto.begin("cats")
    assert work.auto.wait(60) and words in work.auto.state.failed
    row, text, cancel = render_by_itself(replace(AppContext(workspace).view(), auto_check=work.auto.state))
    assert row.visible and words in text and not cancel.visible


def test_it_begins_after_reading_and_after_making_maps(workspace: Workspace, paired_folder: Path) -> None:
    context = AppContext(workspace)

    def do(kind: str, job: Any) -> dict[str, str]:
        context.start_job(kind, "A job", job)
        assert context.runner.wait(30) and context.runner.snapshot.outcome == "completed"
        assert context.auto_check.wait(30)
        return CheckStore(workspace.dataset_folder("cats")).about()

    read = do(JobKind.DATASET, import_images(context, str(paired_folder / "images"), "cats"))
    made = do(JobKind.CONDITIONS, make_maps(context, "cats", "canny", {}))
    dataset = Dataset.open(workspace.dataset_folder("cats"))
    assert read["fingerprint"] == made["fingerprint"] == dataset.fingerprint
    assert read["maps"] == "" and made["maps"] == maps_of(dataset) == "12 of canny"
    assert context.auto_check.state.ended == 2
    context.add_to_queue(ImportDataset(place=str(paired_folder / "images"), name="cats"))
    assert context.queue.wait(30) and context.auto_check.wait(30)
    assert context.auto_check.state.ended == 3, "also after a job of the queue"
    context.check_by_itself("gone")
    assert not context.auto_check.state.alive
    rules = {one.rule for one in context.readiness().cautions}
    assert "dataset_check" in rules or "faulty_maps" in rules, "its verdict is among the cautions"


def test_the_cautions_say_how_far_it_is_and_that_start_need_not_wait(workspace: Workspace) -> None:
    others = (Caution("yellow", "Few images.", "", ""), Caution("note", "Not checked.", "", "", rule="dataset_check"))
    view = AppContext(workspace).view()
    ready = replace(view.train, state=TrainTabState.READY, cautions=others)
    view = replace(view, train=ready, draft=Draft(changes={"data": {"dataset": "cats"}}))
    assert shown_cautions(view) == others
    few, told = shown_cautions(replace(view, auto_check=CheckState("cats", 3, 40)))
    assert few == others[0] and "being checked: 3 of 40 images" in told.what and "start before" in told.try_this
    assert shown_cautions(replace(view, auto_check=CheckState("dogs", 3, 40))) == others
