"""The trial of three steps on the Train tab."""

from __future__ import annotations

import threading

from engine.config.presets import resolve
from engine.demo.sets import make_demo_set
from engine.estimate.trials import Measured, read, write
from engine.jobs.snapshot import JobKind
from engine.machine.hardware import Hardware
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.states import Action
from ui.train.trial import render_trial, trial_job


def test_the_trial_button_is_disabled_until_a_run_could_start(workspace: Workspace) -> None:
    context = AppContext(workspace)
    button, add, words, cancel = render_trial(context.view())
    assert button.interactive is add.interactive is False and cancel.visible is False
    assert "Measures time and memory" in words


def test_a_trial_can_be_added_to_the_queue_while_a_job_runs(workspace: Workspace) -> None:
    context, end = AppContext(workspace), threading.Event()
    make_demo_set(workspace, "circles", 8)
    context.focus_on("demo-circles-8")
    context.files_changed()
    assert render_trial(context.view())[0].interactive is True
    context.start_job(JobKind.CHECK, "Checking", lambda token, emit: end.wait(30) and "completed")
    view = context.view()
    assert view.train.buttons[Action.START].enabled, "a run can be queued"
    assert render_trial(view)[1].interactive is True
    end.set()


def test_the_measurements_of_a_trial_are_stored(workspace: Workspace, monkeypatch) -> None:
    context = AppContext(workspace)
    config = resolve(("test", {"model": {"base": "demo"}, "data": {"resolution": 128}}))[0]

    def measure(workspace: Workspace, config: object, hardware: Hardware):
        def work(token: object, emit: object) -> str:
            write(workspace, config, hardware.name, Measured(0.5, 1.0, 2.0 * 2**30, False))
            return "completed"

        return work

    monkeypatch.setattr("engine.training.preflight.preflight_job", measure)
    context.start_job(JobKind.TRIAL, "Trying three steps", trial_job(context, config))
    assert context.runner.wait(30)
    assert context.runner.snapshot.outcome == "completed"
    assert read(workspace, config, context.hardware.name).seconds_per_step == 0.5
