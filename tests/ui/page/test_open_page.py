"""A page that stays open for days does not leak memory. See docs/reliability.md."""

from __future__ import annotations

import http.client
import json
import os
import queue
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import gradio as gr
import pytest
from gradio.queueing import Queue

from engine.jobs.events import Progress
from engine.jobs.runner import Emit
from engine.workspace.paths import Workspace
from tests.browser.studio import free_port
from tests.living import living_objects
from tests.ui.page.event_queue import SESSION, answers, send
from ui.page.context import AppContext
from ui.page.live import GROUPS, PAGES, Live
from ui.page.messages import status_line
from ui.server import gradio_patches, serve
from ui.server.routes import POLL

TICKS = 50
"""How often the page looks until it is counted again."""
LEAK = 3 * TICKS
"""So many more memory blocks in a round, or more, are a leak: three with each look."""
ROUNDS = 8
"""How often it is counted at most: caches fill in the first rounds, a leak grows in all of them."""


class Page:
    """Does what the page in the browser does: polls the versions, and fetches the groups whose version has changed."""

    def __init__(self, demo: gr.Blocks, live: Live, port: int) -> None:
        functions = list(demo.fns.values())
        self.groups = [
            next(f for f in functions if (button._id, "click") in f.targets) for button in live.refresh_buttons
        ]
        self.known = [0] * len(self.groups)
        self.server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, function: Any) -> list[Any]:
        """Send one event through gradio's queue, and return what it sends to the page."""
        send(self.server, function)
        (answer,) = answers(self.server)
        return answer

    def look(self) -> int:
        """Poll once, and return how many groups have changed."""
        self.server.request("GET", POLL)
        versions = json.loads(self.server.getresponse().read())
        due = [version != known for version, known in zip(versions, self.known, strict=True)]
        self.known = versions
        for group, changed in zip(self.groups, due, strict=True):
            if changed:
                self.ask(group)
        return sum(due)


class Job:
    """A job that advances on request. It reports progress, not steps: curves grow until they are thinned out."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.wanted: queue.Queue[int] = queue.Queue()
        self.done = 0
        context.runner.start("train", "Training", self.work)

    def work(self, token: object, emit: Emit) -> Any:
        while done := self.wanted.get():
            emit(Progress("pictures", done, 1000))
            self.wanted.task_done()
        return "completed"

    def get_on(self) -> None:
        self.done += 1
        self.wanted.put(self.done)
        self.wanted.join()

    def end(self) -> None:
        self.wanted.put(0)
        assert self.context.runner.wait(60)


@pytest.fixture
def surroundings(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment variables of the window, and restore them afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    serve.prepare_environment(workspace)


@contextmanager
def open_page(context: AppContext) -> Iterator[tuple[gr.Blocks, Page]]:
    """Serve a window with a few live outputs that change each time, and one that does not."""
    with gr.Blocks(analytics_enabled=False) as demo:
        live = Live(context, demo)
        line, image, row = gr.HTML(), gr.HTML(), gr.Row(visible=False)
        live.outputs(
            [line, row, image],
            lambda view: view.snapshot.version,
            lambda view: [status_line(view.snapshot, False), gr.Row(visible=True), gr.HTML(f"{view.snapshot.version}")],
            "fast",
        )
        # Updated every other time, like a chart that is drawn every few seconds.
        live.outputs(
            [gr.HTML()], lambda view: view.snapshot.version // 2, lambda view: [f"{view.snapshot.version}"], "fast"
        )
        live.wire()
    demo.queue(api_open=False)
    assert len(live.refresh_buttons) == len(GROUPS) and demo._queue.sleep_when_free > 0, "what gradio calls it"
    port = free_port()
    serve.serve(demo, context.workspace, live.versions, context.progress, "127.0.0.1", port, None, PAGES)
    assert demo._queue.sleep_when_free == gradio_patches.QUEUE_SECONDS
    try:
        yield demo, Page(demo, live, port)
    finally:
        demo.close(verbose=False)


def alive() -> tuple[int, Counter[str]]:
    """Return the number of memory blocks that Python holds, and the number of components of each type."""
    kinds = Counter(type(thing).__name__ for thing in living_objects() if issubclass(type(thing), gr.blocks.Block))
    return sys.getallocatedblocks(), kinds


def test_an_open_page_leaves_nothing_behind(
    workspace: Workspace, surroundings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[int] = []
    table = Queue._get_df
    monkeypatch.setattr(
        Queue, "_get_df", staticmethod(lambda records: (tables.append(len(records)), table(records))[1])
    )
    context = AppContext(workspace)
    job, seen = Job(context), []
    with open_page(context) as (demo, page):
        for _ in range(ROUNDS):
            for _ in range(TICKS):
                job.get_on()
                assert page.look() >= 1
            seen.append(alive())
            if len(seen) > 2 and seen[-1][0] - seen[-2][0] < LEAK:
                break
        job.end()
    (_, parts), *_, (_, parts_later) = seen
    assert parts_later == parts
    growth = [later - earlier for (earlier, _), (later, _) in pairwise(seen)]
    assert growth[-1] < LEAK, f"the number of memory blocks grew in each round: {growth}"
    assert len(demo._queue.event_analytics) <= 1 and not tables, "gradio makes statistics of its events"


def test_the_state_of_closed_pages_is_dropped(workspace: Workspace, surroundings: None) -> None:
    with open_page(AppContext(workspace)) as (demo, page):
        page.look()
        for number in range(PAGES):
            demo.state_holder[f"page-{number}"]
        assert len(demo.state_holder.session_data) == PAGES and SESSION not in demo.state_holder
