"""The HTTP API of a window: its requests use the window's models, wait for other jobs, and disturb nothing."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from engine.errors import UserError
from engine.jobs.control import BorrowRequest, Token
from engine.jobs.events import RunOpened
from engine.jobs.runner import Emit
from engine.serving.served_net import ServedNet
from engine.training import lending
from engine.workspace.paths import Workspace
from ui.page.api_server import WindowApi
from ui.page.context import AppContext


@pytest.fixture
def api(workspace: Workspace, tiny_base: Path, loud_controlnet: Path) -> Iterator[WindowApi]:
    api = WindowApi(AppContext(workspace))
    api.start(ServedNet("ring", loud_controlnet, str(tiny_base), defaults={"width": 64, "height": 64, "steps": 1}), 0)
    yield api
    api.stop()
    assert not api.running and api.state() == ()


def ask(api: WindowApi, edges: Image.Image, wait: float) -> dict[str, Any]:
    assert api.server is not None
    buffer = io.BytesIO()
    edges.save(buffer, "PNG")
    body = {"map": base64.b64encode(buffer.getvalue()).decode(), "seed": 1}
    headers = {"authorization": f"Bearer {api.token}"}
    answer = httpx.post(f"{api.server.url}/v1/images?wait={wait}", json=body, headers=headers, timeout=60)
    return dict(answer.json())


def test_a_request_waits_for_the_job_of_the_window_and_leaves_its_problem_panel(
    api: WindowApi, edges: Image.Image
) -> None:
    context, go_on = api.context, threading.Event()
    context.show_problem(UserError("What.", "Why.", "Try."))

    def other(_token: Token, _emit: Emit) -> Any:
        assert go_on.wait(20)
        return "completed"

    context.runner.start("export", "Exporting", other)
    assert ask(api, edges, wait=0.5)["state"] == "drawing"
    go_on.set()
    assert ask(api, edges, wait=30)["state"] == "done"
    assert context.view().problem is not None
    assert api.state()[2][2] == ("done", 2)


def test_while_a_run_trains_its_models_draw(
    api: WindowApi, edges: Image.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads = []

    class Lent:
        warnings = ("lent",)

        def generate(self, requests: Any, *_args: Any, **_more: Any) -> list[Image.Image]:
            threads.append(threading.current_thread().name)
            return [Image.new("RGB", (64, 64)) for _ in requests]

    lend = lambda _workspace, draw: BorrowRequest(lambda _, request: draw(Lent(), request))  # noqa: E731
    monkeypatch.setattr(lending, "borrowing", lend)

    def train(token: Token, emit: Emit) -> Any:
        emit(RunOpened(tmp_path / "2026_birds", "birds", 0, 100, 1))
        while token.stop_requested is None:
            token.wait_for_request(0.01)
            for request in token.take_borrow_requests():
                request.do(None)
        return "paused"

    api.context.runner.start("train", "Training birds", train)
    answer = ask(api, edges, wait=30)
    assert (answer["state"], answer["warnings"], threads) == ("done", ["lent"], ["job-train"])
    api.context.runner.pause()
    assert api.context.runner.wait(20)
