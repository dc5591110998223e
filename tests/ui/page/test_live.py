"""A chart or list that cannot be drawn holds up nothing else: not the page, and least of all the work."""

from __future__ import annotations

import gradio as gr
import pytest

from engine.workspace.paths import Workspace
from ui.app import build_app
from ui.page.context import AppContext
from ui.page.live import Live, LiveOutputs, changed_updates
from ui.train import watch


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


def broken(*_: object) -> list[object]:
    raise ZeroDivisionError("no points")


def test_a_broken_part_stays_as_it_was_and_the_others_are_drawn(context: AppContext) -> None:
    faults: list[int] = []
    parts = [
        LiveOutputs(("a", "b"), lambda view: 1, broken),
        LiveOutputs(("c",), lambda view: 1, lambda view: ["three"]),
        LiveOutputs(("d",), broken, lambda view: ["four"]),
        LiveOutputs(("e",), lambda view: 1, lambda view: ["five"]),
    ]
    updates, seen = changed_updates(parts, context.view(), {}, lambda number, error: faults.append(number))
    assert updates == [gr.skip(), gr.skip(), "three", gr.skip(), "five"]
    assert faults == [0, 2] and seen[1] == 1


def test_it_is_told_once_and_not_again_after_it_was_read(context: AppContext) -> None:
    with gr.Blocks() as demo:
        live = Live(context, demo)
    live.report(3, ZeroDivisionError("no points"))
    problem = context.view().problem
    assert problem is not None and "cannot be shown" in problem.what and "not affected" in problem.try_this
    assert "ZeroDivisionError: no points" in problem.details
    context.dismiss_problem()
    live.report(3, ZeroDivisionError("no points"))
    assert context.view().problem is None


def test_a_fault_in_a_chart_ends_no_training(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole window, with a chart that breaks whenever it is drawn, beside a job."""
    monkeypatch.setattr(watch, "_scores", broken)
    _, live = build_app(context)
    looked = [0]

    def work(token: object, emit: object) -> str:
        changed_updates(live.registered, context.view(), {}, live.report)
        looked[0] += 1
        return "completed"

    context.runner.start("train", "Training", work)  # type: ignore[arg-type]
    assert context.runner.wait(60)
    assert (context.runner.snapshot.outcome, looked) == ("completed", [1])
    problem = context.view().problem
    assert problem is not None and "A part of this page" in problem.what
