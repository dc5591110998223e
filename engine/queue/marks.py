"""The mark that a queued job leaves in the run.json of the run that it trains.

By it a second attempt, after a crash, finds the run of the first, whatever the queue's own files say.
"""

from __future__ import annotations

import json

from engine.errors import UserError
from engine.runs.run import QUEUE_ENTRIES, Run, write_run
from engine.workspace.paths import Workspace

OF_ENTRY = "@"
"""In front of an entry's id: the run that this entry trains, for jobs that wait behind it."""


def marked_run(workspace: Workspace, mark: str) -> Run | None:
    """The run with this mark. None if no attempt of the entry has begun one."""
    for folder in workspace.run_folders():
        try:
            about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a damaged run is none that could go on
        if isinstance(about, dict) and mark in (about.get(QUEUE_ENTRIES) or ()):
            return Run(folder)
    return None


def set_mark(run: Run, mark: str) -> None:
    """Add the mark to a run."""
    run.about[QUEUE_ENTRIES] = [*run.about.get(QUEUE_ENTRIES, ()), mark]
    write_run(run.folder, run.about)


def run_of(workspace: Workspace, name: str) -> Run:
    """The run with this folder name or, for "@ID", the one that the entry ID of the queue has trained.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if not name.startswith(OF_ENTRY):
        return Run(workspace.run_folder(name))
    run = marked_run(workspace, name.removeprefix(OF_ENTRY))
    if run is None:
        raise UserError(
            f"There is no run of the queued job {name.removeprefix(OF_ENTRY)}.",
            "That job has not started, or it failed before it made a run, or the run was removed.",
            "Use the name of the run's folder.",
        )
    return run
