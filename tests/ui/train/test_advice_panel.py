"""What to expect of the shown run while it goes, and the next run to try after its end."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import gradio as gr
import pytest

from engine.config.presets import flatten, resolve
from engine.demo.sets import demo_preset, make_demo_set
from engine.runs.run import Run
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.evaluation.test_verdict import Curve
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.states import TrainTabState
from ui.train.advice import build_advice, render, take


@pytest.fixture
def run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of the demo with the checks of "circles", of which step 300 was saved."""
    name = make_demo_set(workspace, "circles", 6).name
    run = create_run(workspace, resolve(("demo", demo_preset().values), ("test", {"data": {"dataset": name}}))[0], {})
    lines = [json.dumps(asdict(check)) for check in Curve("circles").checks]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(Run, "last_step", 300)
    return run


def shown(context: AppContext, state: TrainTabState, upto: int = 300) -> tuple[str, Any, Any]:
    """The panel in a state of the run, when it had reached a step."""
    view = context.view()
    checks = tuple(check for check in view.history.checks if check.step <= upto)
    history = replace(view.history, checks=checks, start_step=upto, recent_seconds=(0.5,))
    text, button, offer = render(context, replace(view, train=replace(view.train, state=state), history=history))
    return text, button, offer


def test_while_it_goes_the_advice_follows_its_checks(workspace: Workspace, run: Run) -> None:
    context = AppContext(workspace)
    text, button, offer = shown(context, TrainTabState.RUNNING, 40)
    assert "by step 80, most likely about step 53" in text and "risen to 3.0%" in text
    assert not button.visible and offer is None
    text, _, _ = shown(context, TrainTabState.RUNNING, 60)
    assert "since step 50" in text and "about 200 steps, 2 min in total (now set to 500)" in text
    context.show_run("")
    assert shown(context, TrainTabState.RUNNING)[0] == ""


def test_after_its_end_a_button_offers_the_next_run(
    workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = AppContext(workspace)
    text, button, (name, offer) = shown(context, TrainTabState.COMPLETED)
    assert "What to try next" in text and "It was still improving." in text
    assert button.visible and button.value == "Resume up to step 750" and offer.resumes and name == run.name
    resumed: list[Any] = []
    monkeypatch.setattr(context, "resume_training", lambda *what: resumed.append(what))
    take(context, name, offer)
    assert resumed == [(run.name, {"train.steps": 750})]


def test_the_button_fills_the_form_of_a_new_run(workspace: Workspace, run: Run) -> None:
    hot = [json.dumps(asdict(check)) for check in Curve("hot").checks]
    (run.folder / "metrics.jsonl").write_text("\n".join(hot) + "\n", encoding="utf-8")
    context = AppContext(workspace)
    _, button, (name, offer) = shown(context, TrainTabState.STOPPED)
    assert button.value == "New run with learning rate 0.001"
    take(context, name, offer)
    changes = flatten(context.draft.changes)
    assert changes["optim.learning_rate"] == 0.001 and changes["data.dataset"] == run.config.data.dataset
    assert context.view().shown_run == ""


def test_it_is_wired(workspace: Workspace, run: Run) -> None:
    with gr.Blocks() as demo:
        live = Live(AppContext(workspace), demo)
        build_advice(live.context if hasattr(live, "context") else AppContext(workspace), live)
    (outputs,) = live.registered
    assert [component.elem_id for component in outputs.components[:2]] == ["run-advice", "next-run"]
