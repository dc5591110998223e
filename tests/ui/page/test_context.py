"""The context that all pages share: jobs, files, problems and the draft."""

from __future__ import annotations

import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from engine.demo.sets import make_demo_set
from engine.errors import UserError
from engine.jobs.runner import Busy
from engine.training.job import start_training
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.disk.in_use import open_elsewhere
from ui.dataset.import_jobs import import_images
from ui.page.context import AppContext
from ui.page.live import LiveOutputs, changed_updates
from ui.page.states import TrainTabState
from ui.server.shutdown import shut_down


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in place of the demo base. Nothing is loaded from it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("engine.workspace.paths.DEMO_BASE", folder)
    return folder


def finish(context: AppContext, work: Any) -> Any:
    context.start_job("dataset", "A job", work)
    assert context.runner.wait(30)
    return context.view()


def image(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)).save(path)


def test_a_missing_folder_is_reported(context: AppContext, tmp_path: Path) -> None:
    view = finish(context, import_images(context, str(tmp_path / "nowhere"), "mine"))
    assert view.problem is not None
    assert "does not exist" in view.problem.what


def test_an_empty_folder_is_reported(context: AppContext, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    view = finish(context, import_images(context, str(tmp_path / "empty"), "mine"))
    assert view.problem is not None
    assert "no images" in view.problem.what


def test_an_unreadable_image_is_listed_and_the_others_are_used(context: AppContext, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    image(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    view = finish(context, import_images(context, str(folder), "mine"))
    assert view.problem is None
    assert view.datasets == ("mine",)
    assert view.focus_dataset == "mine"
    from engine.data.dataset import Dataset

    dataset = Dataset.open(context.workspace.dataset_folder("mine"))
    assert (dataset.count(), len(dataset.problems())) == (1, 1)


@pytest.mark.answers("Checkpoints fill the disk")
def test_a_full_disk_is_reported_next_to_start(
    context: AppContext, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_demo_set(context.workspace, "circles", 8)
    context.focus_on("demo-circles-8")
    assert context.view().train.state is TrainTabState.READY
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    context.files_changed()
    view = context.view()
    assert view.train.state is TrainTabState.NOT_READY
    assert any("disk" in button.reason for button in view.train.buttons.values())


def test_from_nothing_to_ready(context: AppContext, base: Path) -> None:
    assert "no dataset yet" in str(context.view().train.buttons)
    make_demo_set(context.workspace, "circles", 8)
    context.focus_on("demo-circles-8")
    context.files_changed()
    assert context.view().train.state is TrainTabState.READY


def test_a_second_start_is_refused_and_leaves_nothing_behind(context: AppContext, base: Path) -> None:
    make_demo_set(context.workspace, "circles", 8)
    context.focus_on("demo-circles-8")
    release = threading.Event()
    context.start_job("dataset", "Reading cats", lambda token, emit: release.wait(30) and "completed")
    start = context.catch_errors(
        lambda: start_training(context.runner, context.workspace, *context.config_of(context.draft))
    )
    assert start() == gr.skip()
    release.set()
    problem = context.view().problem
    assert problem is not None
    assert "Reading cats" in problem.why
    assert context.workspace.run_folders() == []


def test_only_one_job_runs_at_a_time(context: AppContext) -> None:
    release = threading.Event()
    context.start_job("dataset", "One", lambda token, emit: release.wait(30) and "completed")
    with pytest.raises(Busy):
        context.start_job("dataset", "Two", lambda token, emit: "completed")
    release.set()


def test_a_problem_stays_until_it_is_closed_and_the_next_one_shows_again(context: AppContext) -> None:
    context.show_problem(UserError("A.", "B.", "C."))
    assert context.view().problem is not None
    assert context.view().problem is not None
    context.dismiss_problem()
    assert context.view().problem is None

    def fail(token: Any, emit: Any) -> Any:
        raise UserError("D.", "E.", "F.")

    view = finish(context, fail)
    assert view.problem is not None and view.problem.what == "D."
    context.dismiss_problem()
    assert context.view().problem is None
    assert finish(context, fail).problem is not None


def test_an_unfinished_run_is_found_at_the_next_start_and_can_be_discarded(
    context: AppContext, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_demo_set(context.workspace, "circles", 8)
    context.focus_on("demo-circles-8")
    run = create_run(context.workspace, *context.config_of(context.draft))
    later = AppContext(context.workspace)
    view = later.view()
    assert (view.shown_run, view.train.state) == (run.name, TrainTabState.INTERRUPTED)
    with monkeypatch.context() as held:
        open_elsewhere(held, lambda path: path == run.folder)
        with pytest.raises(UserError, match="was not moved"):
            later.discard_run(run.name)
    kept = later.discard_run(run.name)
    assert (kept / "run.json").exists()
    assert later.view().shown_run == ""


def test_ctrl_c_pauses_a_training_run(context: AppContext, capsys: pytest.CaptureFixture[str]) -> None:
    def train(token: Any, emit: Any) -> Any:
        while token.stop_requested is None:
            time.sleep(0.01)
        return "paused"

    class Demo:
        closed = False

        def close(self, verbose: bool) -> None:
            self.closed = True

    demo = Demo()
    context.runner.start("train", "Training", train)
    assert shut_down(demo, context.runner, context.shutdown) == 0
    assert demo.closed
    assert context.runner.snapshot.outcome == "paused"
    assert "Resume it at the next start" in capsys.readouterr().out


def test_a_page_gets_only_what_changed(context: AppContext) -> None:
    parts = [
        LiveOutputs(("a", "b"), lambda view: view.datasets, lambda view: ["one", "two"]),
        LiveOutputs(("c",), lambda view: view.problem, lambda view: ["three"]),
    ]
    updates, seen = changed_updates(parts, context.view(), {})
    assert updates == ["one", "two", "three"]
    assert changed_updates(parts, context.view(), seen)[0] == [gr.skip()] * 3
    context.show_problem(UserError("A.", "B.", "C."))
    assert changed_updates(parts, context.view(), seen)[0] == [gr.skip(), gr.skip(), "three"]


def test_the_form_survives_a_reload(context: AppContext) -> None:
    context.set_draft("demo", {"train": {"steps": 77}})
    config, origins = context.config_of(context.draft)
    assert config.train.steps == 77
    assert origins["train.steps"] == "you"
    assert origins["data.resolution"] == "preset demo"


def test_a_new_start_selects_an_existing_dataset(workspace: Workspace, base: Path) -> None:
    make_demo_set(workspace, "circles", 8)
    later = AppContext(workspace)
    assert later.view().focus_dataset == "demo-circles-8"
    assert later.view().train.state is TrainTabState.READY


def test_a_failed_handler_without_outputs_returns_nothing(context: AppContext) -> None:
    def fail() -> None:
        raise UserError("What.", "Why.", "Try this.")

    assert context.catch_errors(fail, has_outputs=False)() is None, "gradio warns of a value that has no output"
    assert context.catch_errors(fail)() == gr.skip()
    assert context.view().problem is not None
