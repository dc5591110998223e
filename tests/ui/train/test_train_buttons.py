"""Each button sends its own command to the runner, and the status above them is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from engine.jobs.events import DiskSpace, Event, Message, PhaseChanged, StepDone, Waiting
from engine.jobs.snapshot import JobSnapshot, fold
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.states import Action, Readiness, train_view
from ui.train.status_bar import COMMANDS, button_handler, notes_html, status_html


class Recorder:
    """A runner that only records its commands."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.asked.append(name) or True


@pytest.mark.parametrize(("action", "asked"), list(COMMANDS.items()))
def test_buttons_send_commands_to_a_running_training(workspace: Workspace, action: Action, asked: str) -> None:
    context = AppContext(workspace, runner=cast(Any, Recorder()))
    handler = button_handler(context, Live(context, cast(Any, None)), cast(Any, None), action)
    assert handler("run") is None
    assert cast(Any, context.runner).asked == [asked]


def test_every_button_does_something(workspace: Workspace) -> None:
    context = AppContext(workspace, runner=cast(Any, Recorder()))
    live = Live(context, cast(Any, None))
    assert all(callable(button_handler(context, live, cast(Any, None), action)) for action in Action)


def test_a_slow_or_full_disk_is_reported_above_the_buttons(workspace: Workspace) -> None:
    page, seen = AppContext(workspace).view(), DiskSpace(62 * 2**30, 2**20, 2**30)
    snapshot = replace(JobSnapshot(), alive=True, kind="train", title="Training", total_steps=100)

    def words(*events: Event) -> str:
        nonlocal snapshot
        for event in events:
            snapshot = fold(snapshot, event, 0.0)
        train = train_view(snapshot, None, Readiness())
        shown = replace(page, snapshot=snapshot, history=snapshot, train=train)
        return status_html(shown) + notes_html(shown)

    slow = "Writing the checkpoint of step 5 has taken 31 s so far."
    assert "62.0 GB free" in words(seen, PhaseChanged("saving")) and slow not in words()
    assert slow in words(Message(slow, "warning")), "the log may be folded"
    full = words(Waiting("The disk has 9 MB left."))
    assert "9 MB left" in full and "62.0 GB" not in full and slow not in full, "what was true before"
    assert "9 MB left" not in words(PhaseChanged("saving")), "it is being tried again"
    again = words(Message(slow, "warning"), PhaseChanged("running"), Message(slow, "warning"), StepDone(6, 6, 1, 1, 1))
    assert slow not in again, "it is done"
