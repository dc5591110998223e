"""Runs in this workspace that show when a similar run begins to follow its control images. Imports no torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from engine.config import RunConfig
from engine.errors import UserError
from engine.estimate.sudden_convergence import Recorded
from engine.evaluation.verdict import convergence
from engine.jobs.events import Checked
from engine.jobs.snapshot import add_check
from engine.runs.run import Run
from engine.tuning.facts import trains_alike
from engine.workspace.paths import Workspace

NEWEST = 30
"""The most runs that are read."""
LIKE_RATE = 2.0
"""Learning rates count as alike up to this factor."""


def recorded_runs(
    workspace: Workspace, config: RunConfig, condition: str, apart_from: str = ""
) -> tuple[Recorded, ...]:
    """Those with the same base, control type and kind of trainable, a similar learning rate, and a net that follows.

    A run that ended without following does not count: its control images may be at fault.

    Args:
        condition: name of the control type.
        apart_from: a run's name, itself.
    """
    found = []
    for folder in workspace.run_folders()[:NEWEST]:
        if folder.name == apart_from or (began := _began(folder)) is None:
            continue
        try:
            run = Run(folder)
        except UserError:
            continue  # the Train tab says what is wrong with a damaged run
        if _alike(workspace, run, config, condition):
            same = run.begun_with.data.dataset == config.data.dataset
            found.append(Recorded(run.name, *began, run.begun_with.images_per_step, same))
    return tuple(found)


def _alike(workspace: Workspace, run: Run, config: RunConfig, condition: str) -> bool:
    its = run.begun_with
    rates = sorted((its.optim.learning_rate, config.optim.learning_rate))
    return (
        str(run.condition.get("type", "")) == condition
        and trains_alike(its, config)
        and bool(its.model.controlnet) == bool(config.model.controlnet)
        and rates[1] <= LIKE_RATE * rates[0]
        and _located(workspace, its.model.whole_base) == _located(workspace, config.model.whole_base)
    )


def _located(workspace: Workspace, base: str) -> str:
    try:
        return workspace.locate_base(base)
    except UserError:
        return base  # gone since


def _began(folder: Path) -> tuple[int, int] | None:
    """(first check at which the net followed, the check before), read once for each state of the file."""
    try:
        stat = (folder / "metrics.jsonl").stat()
    except OSError:
        return None  # ended before its first step
    return _read(folder / "metrics.jsonl", stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4 * NEWEST)
def _read(path: Path, modified: int, size: int) -> tuple[int, int] | None:
    checks: tuple[Checked, ...] = ()
    try:
        with path.open("rb") as file:
            for line in file:
                if b'"control_gain"' not in line:
                    continue  # a run of a week has half a million other lines
                try:
                    checks = add_check(checks, Checked(**json.loads(line)))
                except (ValueError, TypeError):
                    continue  # cut off by a crash, or of another version
    except OSError:
        return None
    since = convergence(checks)
    if since is None:
        return None
    return since, max((check.step for check in checks if check.step < since), default=0)
