"""What the window's own jobs do, in the job's thread. The engine is imported there, so that the window starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.jobs.control import Token
from engine.jobs.events import Message, Progress
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from ui.context import AppContext, with_focus
from ui.messages import counted


def counting(emit: Emit, label: str) -> Any:
    """The engine's progress callback as events; the label stays the same, so that the time left can be told."""
    return lambda done, total, _what="": emit(Progress(done, total, label))


def read_folder(context: AppContext, folder: str, name: str) -> Work:
    """Scan a folder of the user's and keep what was found as a dataset."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.data.dataset import Dataset
        from engine.data.scan import scan_folder

        report = scan_folder(folder, counting(emit, "Pictures read"), token)
        dataset = Dataset.create(context.workspace, name, report, folder)
        emit(Message(f"{len(report.samples):,} pictures, {len(report.problems):,} problems in {folder}."))
        with_focus(context, dataset.name)
        return "completed"

    return work


def make_maps(context: AppContext, dataset_name: str, kind: str, parameters: Mapping[str, Any]) -> Work:
    """Make all condition maps of a dataset; those that are there already are kept."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.conditions.batch import make_all
        from engine.data.dataset import Dataset

        dataset = Dataset.open(context.workspace.dataset_folder(dataset_name))
        report = make_all(dataset, kind, parameters, token, counting(emit, "Maps made"))
        emit(Message(f"{report.made:,} maps made, {report.kept:,} kept, {len(report.failures):,} failed."))
        problems = [*report.failures, *report.warnings]
        context.result(
            "conditions",
            note=f"{counted(report.made + report.kept, 'map is', 'maps are')} ready "
            f"({report.made:,} new, {report.kept:,} kept).",
            facts=tuple((problem.path.name, problem.what) for problem in problems[:50]),
        )
        with_focus(context, dataset_name)
        return "completed"

    return work


def try_out(context: AppContext, config: RunConfig) -> Work:
    """Three steps and a set of pictures with these settings, measured."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.training.preflight import preflight_job

        return preflight_job(context.workspace, config, context.hardware)(token, emit)

    return work


def dataset_name_for(folder: str) -> str:
    """A name to suggest for a folder that was picked."""
    from engine.workspace import safe_name

    return safe_name(Path(folder).expanduser().name) if folder.strip() else ""
