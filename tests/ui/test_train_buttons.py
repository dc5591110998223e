"""Each button asks the runner for its own thing."""

from __future__ import annotations

from typing import Any, cast

import pytest

from engine.workspace import Workspace
from ui.context import AppContext
from ui.live import Live
from ui.states import Action
from ui.train_tab import ASKS, _handler


class Recorder:
    """A runner that only writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.asked.append(name) or True


@pytest.mark.parametrize(("action", "asked"), list(ASKS.items()))
def test_buttons_of_a_running_training(workspace: Workspace, action: Action, asked: str) -> None:
    context = AppContext(workspace, runner=cast(Any, Recorder()))
    handler = _handler(context, Live(context, cast(Any, None)), cast(Any, None), action)
    assert handler("run") is None
    assert cast(Any, context.runner).asked == [asked]


def test_every_button_does_something(workspace: Workspace) -> None:
    context = AppContext(workspace, runner=cast(Any, Recorder()))
    live = Live(context, cast(Any, None))
    assert all(callable(_handler(context, live, cast(Any, None), action)) for action in Action)
