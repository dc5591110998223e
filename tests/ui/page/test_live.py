"""An output that cannot be drawn affects neither the rest of the page nor the running job."""

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


def test_outputs_that_fail_stay_as_they_were_and_the_others_are_drawn(context: AppContext) -> None:
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


def test_a_render_error_is_reported_once(context: AppContext) -> None:
    with gr.Blocks() as demo:
        live = Live(context, demo)
    live.report(3, ZeroDivisionError("no points"))
    problem = context.view().problem
    assert problem is not None and "cannot be shown" in problem.what and "not affected" in problem.try_this
    assert "ZeroDivisionError: no points" in problem.details
    context.dismiss_problem()
    live.report(3, ZeroDivisionError("no points"))
    assert context.view().problem is None


def test_an_error_in_a_chart_does_not_end_the_training(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the whole window with a chart that always fails, and run a job."""
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
