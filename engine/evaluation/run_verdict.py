"""The verdict on a run from its history, with the findings of its dataset's check. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from engine.data.dataset import Dataset
from engine.data.doctor.check_store import CheckStore
from engine.errors import UserError
from engine.evaluation.causes import verdict_facts
from engine.evaluation.verdict import Verdict, judge
from engine.jobs.snapshot import JobSnapshot
from engine.runs.run import Run


def verdict_of(history: JobSnapshot, datasets: Path | None = None) -> Verdict | None:
    """Return the verdict on a run. None if nothing was measured or its settings cannot be read.

    Args:
        history: of the live job, or of the run's files.
        datasets: the workspace's folder of datasets, to take the findings of the dataset check into account.
    """
    if not history.checks or history.run_folder is None:
        return None
    try:
        config = Run(history.run_folder).config
    except UserError:
        return None
    facts = verdict_facts(config, *(_dataset_facts(datasets / config.data.dataset) if datasets else ()))
    return judge(history.checks, facts, history.scores, history.kept, history.figures)


def _dataset_facts(folder: Path) -> tuple[int, dict[str, int] | None]:
    """Return the number of pairs, and the findings of the dataset check, or None if it was never run."""
    try:
        dataset = Dataset.open(folder)
    except UserError:
        return 0, None  # removed since
    store = CheckStore(dataset.folder)
    return dataset.count(ready=True), store.counts() if store.exists and store.about() else None
