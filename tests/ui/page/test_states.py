"""The table of train states: every state can be reached, shows its buttons, and says why one is disabled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.jobs.events import StepDone
from engine.jobs.snapshot import JobSnapshot
from engine.runs.run import Ending
from ui.page.states import ACTIVE, BUTTONS, Action, Readiness, RunFacts, TrainTabState, train_view

READY = Readiness("", "2,400 steps, about 3 h")
STEP = StepDone(120, 480, 0.1, 1e-5, 0.2)
LIVE = JobSnapshot(kind="train", alive=True, phase="running", total_steps=400, last_step=STEP)


def facts(ending: Ending, saved: int = 100, last: int = 120) -> RunFacts:
    return RunFacts(Path("runs/mine"), "mine", saved, last, 400, ending)


CASES = {
    TrainTabState.NOT_READY: (None, None, Readiness("Choose a dataset.")),
    TrainTabState.READY: (None, None, READY),
    TrainTabState.PREPARING: (replace(LIVE, phase="preparing"), None, READY),
    TrainTabState.RUNNING: (LIVE, None, READY),
    TrainTabState.VALIDATING: (replace(LIVE, phase="validating"), None, READY),
    TrainTabState.SAVING: (replace(LIVE, phase="saving"), None, READY),
    TrainTabState.WAITING: (replace(LIVE, phase="waiting", waiting="It is waiting for disk space."), None, READY),
    TrainTabState.PAUSING: (replace(LIVE, asked="pause"), None, READY),
    TrainTabState.STOPPING: (replace(LIVE, asked="stop"), None, READY),
    TrainTabState.PAUSED: (replace(LIVE, alive=False, outcome="paused"), facts("paused", 120), READY),
    TrainTabState.STOPPED: (replace(LIVE, alive=False, outcome="stopped"), facts("stopped", 120), READY),
    TrainTabState.COMPLETED: (replace(LIVE, alive=False, outcome="completed"), facts("completed", 400, 400), READY),
    TrainTabState.FAILED: (replace(LIVE, alive=False, outcome="failed"), facts("failed"), READY),
    TrainTabState.INTERRUPTED: (None, facts("interrupted"), READY),
}


def test_every_state_has_a_case_and_its_buttons() -> None:
    assert set(CASES) == set(TrainTabState) == set(BUTTONS)


@pytest.mark.parametrize("state", list(TrainTabState))
def test_state_text_and_buttons(state: TrainTabState) -> None:
    view = train_view(*CASES[state])
    assert view.state is state
    assert view.headline
    assert {action for action, button in view.buttons.items() if button.visible} == set(BUTTONS[state])
    assert set(view.buttons) == set(Action)
    assert view.active == (state in ACTIVE)


@pytest.mark.parametrize("state", list(TrainTabState))
def test_a_disabled_button_says_why_and_an_enabled_one_does_not(state: TrainTabState) -> None:
    for button in train_view(*CASES[state]).buttons.values():
        if button.visible:
            assert button.enabled == (button.reason == "")


def test_some_button_is_enabled_in_every_state_except_while_ending_or_not_ready() -> None:
    waiting = {TrainTabState.NOT_READY, TrainTabState.PAUSING, TrainTabState.STOPPING}
    for state, case in CASES.items():
        pressable = [b for b in train_view(*case).buttons.values() if b.visible and b.enabled]
        assert bool(pressable) == (state not in waiting), state


def test_not_ready_names_the_missing_item_next_to_start() -> None:
    view = train_view(*CASES[TrainTabState.NOT_READY])
    assert view.buttons[Action.START].reason == "Choose a dataset."


@pytest.mark.answers(
    "Batch size, gradient accumulation, effective batch size?", "How many images, how many steps, how long?"
)
def test_ready_shows_steps_and_time() -> None:
    assert "about 3 h" in train_view(*CASES[TrainTabState.READY]).hint


def test_paused_says_where_it_is_saved_and_that_it_is_safe() -> None:
    hint = train_view(*CASES[TrainTabState.PAUSED]).hint
    assert "step 120 of 400" in hint
    assert "safe" in hint


def test_interrupted_says_what_was_lost() -> None:
    assert "last 20 steps" in train_view(*CASES[TrainTabState.INTERRUPTED]).hint


def test_completed_needs_the_files_and_not_only_the_outcome_of_the_job() -> None:
    view = train_view(replace(LIVE, alive=False, outcome="completed"), facts("interrupted"), READY)
    assert view.state is TrainTabState.INTERRUPTED


def test_a_run_that_was_paused_in_an_earlier_session_is_still_paused() -> None:
    assert train_view(None, facts("paused"), READY).state is TrainTabState.PAUSED


@pytest.mark.parametrize(
    ("state", "action"), [(TrainTabState.READY, Action.START), (TrainTabState.PAUSED, Action.RESUME)]
)
def test_while_another_job_runs_start_and_resume_add_to_the_queue(state: TrainTabState, action: Action) -> None:
    assert train_view(*CASES[state]).buttons[action].title == action.value
    button = train_view(*CASES[state], busy_with="Making maps of cats").buttons[action]
    assert button.enabled
    assert button.title == "Add to queue"


def test_a_run_that_lacks_something_can_be_queued_and_says_what_is_missing() -> None:
    """The job that runs may make it."""
    view = train_view(*CASES[TrainTabState.NOT_READY], busy_with="Reading cats")
    assert view.buttons[Action.START].enabled
    assert view.hint == "Choose a dataset. The queue checks this again when the run's turn comes."


def test_the_next_run_can_be_set_up_while_one_trains() -> None:
    button = train_view(*CASES[TrainTabState.RUNNING]).buttons[Action.NEW]
    assert button.enabled
    assert button.title == "Set up the next run"


def test_waiting_for_the_disk_says_what_the_buttons_would_do() -> None:
    waiting = replace(LIVE, phase="waiting", waiting="The disk is full.", kept=(50, 100))
    view = train_view(waiting, None, READY)
    assert "The disk is full." in view.hint and "the last 20 steps would be lost" in view.hint
    assert view.buttons[Action.PAUSE].enabled and view.buttons[Action.STOP].enabled
    asked = train_view(replace(waiting, asked="pause"), None, READY)
    assert asked.state is TrainTabState.WAITING and "pauses as soon as it is saved" in asked.hint
    assert not asked.buttons[Action.PAUSE].enabled and asked.buttons[Action.STOP].enabled
