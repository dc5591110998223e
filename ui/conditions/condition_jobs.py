"""The jobs of the Conditions tab: make all maps, download weights. The engine is imported when they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted
from engine.queue.data_jobs import get_weights
from ui.page.context import AppContext

KIND = JobKind.CONDITIONS
PROBLEMS_SHOWN = 50


def make_maps(
    context: AppContext,
    dataset_name: str,
    kind: str,
    parameters: Mapping[str, Any],
    side: int | None = None,
    varied: int | None = None,
) -> Work:
    """Return the job that makes all condition maps of a dataset. Maps that exist already are kept."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.data.dataset import Dataset
        from engine.data.make_maps import make_all

        dataset = Dataset.open(context.workspace.dataset_folder(dataset_name))
        progress = progress_events(emit, "Maps made")
        report = make_all(dataset, kind, parameters, token, progress, resolution=side, varied=varied)
        emit(Message(f"{counted(report.made, 'map')} made, {report.kept:,} kept, {len(report.failures):,} failed."))
        problems = [*report.failures, *report.warnings]
        context.set_result(
            KIND,
            note=f"{counted(report.made + report.kept, 'map is', 'maps are')} ready "
            f"({report.made:,} new, {report.kept:,} kept).",
            facts=tuple((problem.path.name, problem.what) for problem in problems[:PROBLEMS_SHOWN]),
        )
        context.focus_on(dataset_name)
        context.check_by_itself(dataset_name)
        return "completed"

    return work


def download_weights(context: AppContext, kind: str, values: Mapping[str, Any]) -> Work:
    """Return the job that downloads the weights that a condition type lacks. Only the button for it starts it."""

    def work(token: Token, emit: Emit) -> Outcome:
        context.set_result(KIND, note=get_weights(kind, values, token, emit))
        return "completed"

    return work
