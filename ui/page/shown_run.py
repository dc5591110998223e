"""Reads runs that are not in progress from their files, including damaged ones, for the pages to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.jobs.snapshot import JobSnapshot
from engine.runs.metrics import newest_step
from engine.runs.run import Ending, Run
from engine.workspace.paths import Workspace
from ui.page.states import RunFacts

MAX_RUNS = 20
UNFINISHED: tuple[Ending, ...] = ("interrupted", "paused", "failed")


@dataclass(frozen=True)
class Unfinished:
    """A run of an earlier session that did not reach its end."""

    folder: str
    ending: Ending
    saved_step: int
    last_step: int
    total_steps: int


def read_run(folder: Path) -> tuple[JobSnapshot, RunFacts | None]:
    """Return the curves, images and log of a run, and how it ended."""
    try:
        run = Run(folder)
    except UserError as error:
        return JobSnapshot(log=(f"{error.what} {error.why}",)), RunFacts(folder, folder.name, 0, 0, 0, "interrupted")
    history = run.history()
    facts = RunFacts(
        folder=folder,
        name=run.config.name or run.name,
        saved_step=run.last_step,
        last_step=max(history.last_step.step if history.last_step else 0, run.last_step),
        total_steps=run.config.train.steps,
        ending=run.ending,
    )
    return history, facts


def open_runs(workspace: Workspace, limit: int = MAX_RUNS) -> list[Run]:
    """Open the newest runs. Damaged ones are skipped, so that the app can start."""
    runs = []
    for folder in workspace.run_folders()[:limit]:
        try:
            runs.append(Run(folder))
        except UserError:
            continue  # the Train tab says what is wrong when the run is selected
    return runs


def find_unfinished(runs: list[Run]) -> tuple[Unfinished, ...]:
    """Return the runs that neither completed nor were stopped by the user, newest first."""
    found = []
    for run in runs:
        if run.ending in UNFINISHED:
            saved, steps = run.last_step, run.config.train.steps
            last = max(saved, newest_step(run.folder))
            found.append(Unfinished(run.name, run.ending, saved, last, steps))
    return tuple(found)
