"""Trains a run in the test's own thread: ``trained = train(workspace, run)``. The fixture ``new_run`` makes runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.jobs.control import BorrowRequest, Control
from engine.jobs.events import Event, Message, StepDone
from engine.runs.known_bases import RECORD
from engine.runs.run import Run, write_run
from engine.training.job import training_job
from engine.workspace.paths import Workspace

RunFactory = Callable[..., Run]
"""Makes a run; dotted settings override those of the fixture ``make_config``."""


@dataclass
class Trained:
    """What one call of ``train`` returned and reported. While it runs, ``outcome`` is empty."""

    control: Control = field(default_factory=Control)
    events: list[Event] = field(default_factory=list)
    outcome: str = ""

    def of(self, kind: type) -> list[Any]:
        """The events of one class, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def warnings(self) -> list[str]:
        """Without what each run says of the tests' random bases: that they know nothing, and their VAEs lose lines."""
        from engine.data.vae_round_trip import LINES_LOST  # loads torch, which the installer's tests do without
        from engine.training.base_check import NO_BETTER

        found = [message.text for message in self.of(Message) if message.level == "warning"]
        return [text for text in found if not text.startswith((NO_BETTER, LINES_LOST))]


def checked(run: Run) -> Run:
    """The run, with its base recorded as checked: for tests that count the calls of a net."""
    run.about[RECORD] = {}
    write_run(run.folder, run.about)
    return run


def train(
    workspace: Workspace,
    run: Run,
    at_step: Mapping[int, str] | None = None,
    when: Mapping[type, Callable[[Trained], Any]] | None = None,
    requests: Mapping[int, BorrowRequest] | None = None,
) -> Trained:
    """Train until the run ends, as the app's job does, and return what happened. Errors of the training are raised.

    Args:
        at_step: what the user presses after a step: a method of ``Control``, or several with spaces between.
        when: called after each event of a class (``object``: of every class).
        requests: to borrow the models, sent after a step.
    """
    trained, at_step, when, requests = Trained(), at_step or {}, when or {}, requests or {}

    def emit(event: Event) -> None:
        trained.events.append(event)
        if isinstance(event, StepDone):
            for press in at_step.get(event.step, "").split():
                getattr(trained.control, press)()
            if event.step in requests:
                assert trained.control.send(requests[event.step])
        for kind, act in when.items():
            if isinstance(event, kind):
                act(trained)

    trained.outcome = training_job(workspace, run)(trained.control.token, emit)
    return trained
