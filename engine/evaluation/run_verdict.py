"""The verdict on a run from its history, with the findings of its dataset's check. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.data.doctor.check_store import CheckStore
from engine.errors import UserError
from engine.evaluation.causes import verdict_facts
from engine.evaluation.fewer_steps import judge_fewer_steps
from engine.evaluation.teaching_verdict import judge_teaching, teaching_facts
from engine.evaluation.verdict import Verdict, judge
from engine.evaluation.verdict_rules import Figures
from engine.jobs.events import BaseChecked, Checked
from engine.jobs.snapshot import JobSnapshot
from engine.runs.run import Run
from engine.tuning.facts import facts_of


class Measured(Protocol):
    """What a run has measured: a snapshot, or the history of a run in progress."""

    @property
    def checks(self) -> tuple[Checked, ...]: ...
    @property
    def base_checks(self) -> tuple[BaseChecked, ...]: ...
    @property
    def scores(self) -> Figures: ...
    @property
    def figures(self) -> Figures: ...


def judge_run(
    config: RunConfig,
    measured: Measured,
    checkpoints: Sequence[int] = (),
    images: int = 0,
    found: Mapping[str, int] | None = None,
    since: int = 0,
) -> Verdict:
    """The verdict on what a run has measured, by the rules for what it trains.

    Args:
        checkpoints: steps of those on disk.
        images: number of training images; 0: unknown.
        found: as ``causes.Facts.found``.
        since: checks from this step on.
    """
    trained = facts_of(config)
    if trained.distilled:
        steps, usual = trained.drawn_with["steps"], config.validation.sampling_steps
        return judge_fewer_steps(measured.figures, steps, usual, checkpoints)
    if trained.needs_condition_maps:
        checks = [check for check in measured.checks if check.step >= since]
        return judge(checks, verdict_facts(config, images, found), measured.scores, checkpoints, measured.figures)
    taught = [check for check in measured.base_checks if check.step >= since]
    return judge_teaching(taught, teaching_facts(config, images), checkpoints, measured.figures)


def verdict_of(history: JobSnapshot, datasets: Path | None = None) -> Verdict | None:
    """Return the verdict on a run. None if nothing was measured or its settings cannot be read.

    Args:
        history: of the live job, or of the run's files.
        datasets: the workspace's folder of datasets, to take the findings of the dataset check into account.
    """
    if not (history.measured or history.figures) or history.run_folder is None:
        return None
    try:
        config = Run(history.run_folder).config
    except UserError:
        return None
    if not history.measured and not facts_of(config).distilled:
        return None
    about = _dataset_facts(datasets / config.data.dataset, config) if datasets else (0, None)
    return judge_run(config, history, history.kept, *about)


def _dataset_facts(folder: Path, config: RunConfig) -> tuple[int, dict[str, int] | None]:
    """Return the number of training images, and the findings of the dataset check, or None if it was never run."""
    try:
        dataset = Dataset.open(folder)
    except UserError:
        return 0, None  # removed since
    store = CheckStore(dataset.folder)
    controlled = facts_of(config).needs_condition_maps
    images = dataset.count(ready=controlled)
    if not controlled:
        images = max(0, images - config.data.held_out)
    return images, store.counts() if store.exists and store.about() else None
