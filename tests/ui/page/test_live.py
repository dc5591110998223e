"""An output that cannot be drawn affects neither the rest of the page nor the running job."""

from __future__ import annotations

import http.client
import os
import threading
import time

import gradio as gr
import pytest

from engine.workspace.paths import Workspace
from tests.browser.studio import free_port
from tests.ui.page.event_queue import answers, send
from ui.app import build_app
from ui.page.context import AppContext
from ui.page.live import PAGES, Live, LiveOutputs, changed_updates
from ui.server import serve
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
    monkeypatch.setattr(watch, "score_chart", broken)
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


def test_events_of_one_handler_are_answered_in_their_order(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that was sent earlier and takes longer than the next one: the answer to the later one must stay."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    serve.prepare_environment(context.workspace)
    begun = threading.Event()

    def show(selected: str) -> str:
        if selected == "before":
            begun.set()
            time.sleep(0.5)
        return f"details of {selected}"

    with gr.Blocks(analytics_enabled=False) as demo:
        live = Live(context, demo)
        boxes, details = (gr.Textbox(), gr.Textbox()), gr.HTML()
        for box in boxes:
            live.on(box.change, show, [box], [details])
        live.wire()
    demo.queue(api_open=False)
    port = free_port()
    serve.serve(demo, context.workspace, live.versions, context.progress, "127.0.0.1", port, None, PAGES)
    try:
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        functions = [f for box in boxes for f in demo.fns.values() if (box._id, "change") in f.targets]
        for function, selected in zip(functions, ("before", "after"), strict=True):
            send(server, function, [selected])
            assert begun.wait(30)
        answered = answers(server)
    finally:
        demo.close(verbose=False)
    assert answered == [["details of before"], ["details of after"]]


def test_no_event_of_the_window_overtakes_another_of_its_handler(context: AppContext) -> None:
    demo, live = build_app(context)
    assert {f.concurrency_limit for f in demo.fns.values()} <= {1, "default"}
    assert demo._queue.default_concurrency_limit == 1
    queues = [{demo.fns[event["id"]].concurrency_id for event in events} for events in live.events.values()]
    assert len(queues) > 50 and all(len(one) == 1 for one in queues)
