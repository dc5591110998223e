"""The panel of an error has a button for each way to resume the run that has failed."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from engine.errors import Offer, UserError
from engine.workspace.paths import Workspace
from ui import app
from ui.page.context import AppContext
from ui.page.live import Live

OFFERS = (
    Offer("Resume with half the learning rate", "mine", {"optim.learning_rate": 5e-6}, 300, "1e-05 to 5e-06"),
    Offer("Resume in fp32", "mine", {"train.precision": "fp32"}, 400, "from <step> 400"),
)


def test_each_offer_is_a_button_that_resumes_the_run_as_it_says(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, resumed = AppContext(workspace), []
    monkeypatch.setattr(context, "resume_training", lambda *how: resumed.append(how))
    with gr.Blocks() as demo:
        live = Live(context, demo)
        app.build_problem_panel(context, live)
    (outputs,) = live.registered

    def shown() -> tuple[bool, str, list[tuple[bool, Any, Any]]]:
        box, html, *rest = outputs.render(context.view())
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return box.visible, html, [(button.visible, button.value, offer) for button, offer in pairs]

    assert shown()[0] is False and not any(visible for visible, _, _ in shown()[2])
    context.show_problem(UserError("It broke.", "The rate.", "Resume.", OFFERS))
    visible, html, buttons = shown()
    assert visible and "from &lt;step&gt; 400" in html
    assert [(seen, text) for seen, text, _ in buttons if seen] == [(True, offer.title) for offer in OFFERS]
    take = next(handler for handler in live.events if handler.__name__ == "take")
    take(buttons[0][2])
    assert resumed == [("mine", {"optim.learning_rate": 5e-6}, 300)]
    context.dismiss_problem()
    assert shown()[0] is False
