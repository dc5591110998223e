"""The states of the Train tab, and one pure function from facts to the state, its text and its buttons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from engine.estimate.advice import Advice
from engine.jobs.snapshot import JobSnapshot, Outcome
from engine.machine.units import counted
from engine.runs.run import Ending
from engine.training.caution import Caution


class TrainTabState(Enum):
    NOT_READY = "Not ready"
    READY = "Ready"
    PREPARING = "Preparing"
    RUNNING = "Training"
    VALIDATING = "Generating preview images"
    SAVING = "Saving"
    WAITING = "Waiting for the disk"
    PAUSING = "Pausing"
    STOPPING = "Stopping"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    COMPLETED = "Finished"
    FAILED = "Failed"
    INTERRUPTED = "Interrupted"


class Action(Enum):
    """The buttons, in their order on the page."""

    START = "Start"
    RESUME = "Resume"
    PAUSE = "Pause"
    STOP = "Stop"
    CANCEL = "Cancel"
    SAVE_NOW = "Save now"
    SAMPLE_NOW = "Preview now"
    NEW = "Start a new run"
    DISCARD = "Discard"


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run, read from its files."""

    folder: Path
    name: str
    saved_step: int
    """Step of the newest complete checkpoint, or 0."""
    last_step: int
    """Newest step in the metrics. It is later than ``saved_step`` if work was lost."""
    total_steps: int
    ending: Ending
    """How it ended. "completed" only if the last checkpoint is there and complete."""


@dataclass(frozen=True)
class Readiness:
    """Whether a new run can start."""

    missing: str = ""
    """What is missing, as a sentence, or empty."""
    summary: str = ""
    """What the run will take."""
    cautions: tuple[Caution, ...] = ()
    """Warnings about it."""
    advice: Advice | None = None
    """What to expect of it, and what to set."""


@dataclass(frozen=True)
class ButtonView:
    visible: bool
    enabled: bool = True
    reason: str = ""
    """Why it is disabled."""
    title: str = ""
    """Its text."""


@dataclass(frozen=True)
class TrainView:
    state: TrainTabState
    headline: str
    hint: str
    buttons: dict[Action, ButtonView]
    cautions: tuple[Caution, ...] = ()
    """Warnings about the new run, while one is set up."""
    advice: Advice | None = None
    """What to expect of the new run, while one is set up."""

    @property
    def active(self) -> bool:
        """A training thread is alive."""
        return self.state in ACTIVE


ACTIVE = frozenset(
    {
        TrainTabState.PREPARING,
        TrainTabState.RUNNING,
        TrainTabState.VALIDATING,
        TrainTabState.SAVING,
        TrainTabState.WAITING,
        TrainTabState.PAUSING,
        TrainTabState.STOPPING,
    }
)
AFTER_ENDING: dict[Ending, TrainTabState] = {
    "completed": TrainTabState.COMPLETED,
    "paused": TrainTabState.PAUSED,
    "stopped": TrainTabState.STOPPED,
    "failed": TrainTabState.FAILED,
    "interrupted": TrainTabState.INTERRUPTED,
}
# For a run that ended before its first step: its files do not say how.
AFTER_OUTCOME: dict[Outcome | None, TrainTabState] = {
    "cancelled": TrainTabState.STOPPED,
    "stopped": TrainTabState.STOPPED,
    "paused": TrainTabState.PAUSED,
    "failed": TrainTabState.FAILED,
}
ADD_TO_QUEUE, NEXT_RUN = "Add to queue", "Set up the next run"
WHILE_SAVING = (Action.PAUSE, Action.STOP, Action.SAVE_NOW, Action.SAMPLE_NOW)
WHILE_TRAINING = (*WHILE_SAVING, Action.NEW)
BUTTONS: dict[TrainTabState, tuple[Action, ...]] = {
    TrainTabState.NOT_READY: (Action.START,),
    TrainTabState.READY: (Action.START,),
    TrainTabState.PREPARING: (Action.CANCEL, Action.NEW),
    TrainTabState.RUNNING: WHILE_TRAINING,
    TrainTabState.VALIDATING: WHILE_TRAINING,
    TrainTabState.SAVING: WHILE_TRAINING,
    TrainTabState.WAITING: (Action.PAUSE, Action.STOP, Action.SAVE_NOW, Action.NEW),
    TrainTabState.PAUSING: WHILE_SAVING,
    TrainTabState.STOPPING: WHILE_SAVING,
    TrainTabState.PAUSED: (Action.RESUME, Action.SAVE_NOW, Action.SAMPLE_NOW, Action.NEW),
    TrainTabState.STOPPED: (Action.RESUME, Action.NEW),
    TrainTabState.COMPLETED: (Action.NEW,),
    TrainTabState.FAILED: (Action.RESUME, Action.NEW),
    TrainTabState.INTERRUPTED: (Action.RESUME, Action.NEW, Action.DISCARD),
}


def find_state(training: JobSnapshot | None, facts: RunFacts | None, readiness: Readiness) -> TrainTabState:
    """Return the state, from the live job and the run's files, never from a stored flag.

    Args:
        training: the newest training job of this process for the shown run, or None.
        facts: the files of the shown run, or None while a new run is being set up.
    """
    if training is not None and training.alive:
        if training.phase == "waiting":  # whatever was requested has to wait for the disk, too
            return TrainTabState.WAITING
        if training.asked == "pause":
            return TrainTabState.PAUSING
        if training.asked in ("stop", "cancel"):
            return TrainTabState.STOPPING
        phases = {
            "preparing": TrainTabState.PREPARING,
            "validating": TrainTabState.VALIDATING,
            "saving": TrainTabState.SAVING,
        }
        return phases.get(training.phase, TrainTabState.RUNNING)
    outcome = training.outcome if training is not None else None
    if facts is None:
        if outcome == "failed":
            return TrainTabState.FAILED
        return TrainTabState.NOT_READY if readiness.missing else TrainTabState.READY
    if facts.ending == "interrupted" and outcome in AFTER_OUTCOME:
        return AFTER_OUTCOME[outcome]
    return AFTER_ENDING[facts.ending]


def train_view(
    training: JobSnapshot | None, facts: RunFacts | None, readiness: Readiness, busy_with: str = ""
) -> TrainView:
    """Return state, text and buttons.

    Args:
        busy_with: title of another job that is running, or empty. A run can then be added to the queue, even if
            something is missing now: it is checked again when its turn comes.
    """
    state = find_state(training, facts, readiness)
    asked = training.asked if training is not None else ""
    headline, hint = _text(state, training, facts, readiness)
    shown = BUTTONS[state]
    buttons = {}
    for action in Action:
        reason = _reason(action, state, facts, readiness, busy_with, asked) if action in shown else ""
        buttons[action] = ButtonView(action in shown, not reason, reason, _title(action, state, busy_with))
    if busy_with and state is TrainTabState.NOT_READY:
        hint = f"{readiness.missing} The queue checks this again when the run's turn comes."
    elif busy_with and state is TrainTabState.READY:
        headline, hint = (
            "Ready for the queue",
            f"{hint} It starts after “{busy_with}” and the jobs that are already waiting.",
        )
    ready = readiness if state is TrainTabState.READY else Readiness()
    return TrainView(state, headline, hint, buttons, ready.cautions, ready.advice)


def _title(action: Action, state: TrainTabState, busy_with: str) -> str:
    """Return the text of a button."""
    if busy_with and action in (Action.START, Action.RESUME):
        return ADD_TO_QUEUE
    return NEXT_RUN if action is Action.NEW and state in ACTIVE else action.value


def _reason(
    action: Action, state: TrainTabState, facts: RunFacts | None, readiness: Readiness, busy_with: str, asked: str = ""
) -> str:
    """Return why a visible button is disabled, or an empty string."""
    if action is Action.START and state is TrainTabState.NOT_READY and not busy_with:
        return readiness.missing
    if action is Action.RESUME and facts is None:
        return "the run ended before anything was saved"
    if state is TrainTabState.WAITING and action is Action.PAUSE and asked == "pause":
        return "it pauses as soon as it is saved"
    if state in (TrainTabState.PAUSING, TrainTabState.STOPPING):
        return "finishing this step, then saving"
    if state in (TrainTabState.VALIDATING, TrainTabState.SAVING) and action in (Action.SAVE_NOW, Action.SAMPLE_NOW):
        return "preview images are being generated" if state is TrainTabState.VALIDATING else "the run is being saved"
    if state is TrainTabState.PAUSED and action is Action.SAVE_NOW:
        return "everything is saved already"
    if state is TrainTabState.PAUSED and action is Action.SAMPLE_NOW:
        return "resume first, or use Try it"
    return ""


def _waiting_text(training: JobSnapshot | None) -> str:
    """Return what the run is waiting for, and what the buttons do."""
    if training is None:
        return ""
    saved = training.kept[-1] if training.kept else 0
    lost = training.step - saved
    pause = "It pauses as soon as it is saved." if training.asked == "pause" else "Pause waits until it is saved."
    at_once = (
        f"Stop ends it at once: the last {counted(lost, 'step')} would be lost and trained again." if lost > 0 else ""
    )
    return f"{training.waiting} Save now tries again at once. {pause} {at_once}".strip()


def _text(
    state: TrainTabState, training: JobSnapshot | None, facts: RunFacts | None, readiness: Readiness
) -> tuple[str, str]:
    """Return headline and hint of a state."""
    step = f"{training.step:,} of {training.total_steps:,}" if training and training.total_steps else ""
    saved = facts.saved_step if facts else 0
    total = facts.total_steps if facts else 0
    where = f"Saved at step {saved:,} of {total:,}" if saved else "Nothing was saved yet"
    lost = max(0, facts.last_step - saved) if facts else 0
    if state is TrainTabState.NOT_READY:
        return "Not ready yet", ""  # the reason is shown below Start
    if state is TrainTabState.READY:
        return "Ready to start", readiness.summary
    if state is TrainTabState.PREPARING:
        return "Preparing", "Loading the base model and encoding your images. If you cancel, finished work is kept."
    if state is TrainTabState.RUNNING:
        return f"Training: step {step}", "You can close this page: training continues, and you find it here again."
    if state is TrainTabState.VALIDATING:
        return f"Generating preview images at step {step}", "Training continues by itself afterwards."
    if state is TrainTabState.SAVING:
        return f"Saving at step {step}", "Training continues by itself afterwards."
    if state is TrainTabState.WAITING:
        return f"Waiting for the disk at step {step}", _waiting_text(training)
    if state is TrainTabState.PAUSING:
        return "Pausing", "Finishing this step, then saving. This takes a few seconds."
    if state is TrainTabState.STOPPING:
        return "Stopping", "Finishing this step, then saving. You can resume later."
    if state is TrainTabState.PAUSED:
        return "Paused", f"{where}. It is safe to close the app: Resume continues exactly from there."
    if state is TrainTabState.STOPPED:
        return "Stopped", f"{where}. You can resume it later."
    if state is TrainTabState.COMPLETED:
        hint = (
            "Test it on the Try it tab, take it to other programs on the Export tab, or train longer with “Resume "
            "with other settings”."
        )
        return "Finished", f"All {counted(total, 'step is', 'steps are')} done. {hint}"
    if state is TrainTabState.FAILED:
        hint = "The message at the top says why, and what to try."
        return "Ended with an error", f"{where}. {hint}" if facts else hint
    again = f" The last {counted(lost, 'step was', 'steps were')} not saved and will be trained again." if lost else ""
    return "An unfinished run was found", f"{where}.{again} Resume it, or move it out of the way with Discard."
