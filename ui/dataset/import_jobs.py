"""What the window's own jobs do, in the job's thread. The engine is imported there, so that the window starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.config import RunConfig
from engine.jobs.control import Token
from engine.jobs.events import Message, Progress
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from ui.page.context import AppContext, with_focus
from ui.page.messages import counted

if TYPE_CHECKING:
    from engine.data.import_config import ImportConfig
    from engine.data.importing import ImportResult

STAGES = ("Images downloaded", "Images unpacked", "Images fetched", "Megabytes unpacked")


def counting(emit: Emit, label: str) -> Any:
    """The engine's progress callback as events; the label stays the same, so that the time left can be told."""
    return lambda done, total, _what="": emit(Progress(done, total, label))


def import_images(context: AppContext, place: str, name: str, config: ImportConfig | None = None) -> Work:
    """Make a dataset of whatever the user pointed at; what an earlier try has fetched and read is kept."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.data.importing import import_source

        def progress(done: int, total: int, label: str) -> None:
            # A scan names the file; one label for all of them, so that the time left can be told.
            emit(Progress(done, total, label if label in STAGES else "Images read"))

        result = import_source(context.workspace, place, name, config, progress, token)
        emit(Message(f"{result.pictures:,} images, {result.problems:,} problems in {place}."))
        context.result(
            "dataset",
            note=f"{result.name}: {counted(result.pictures, 'image', 'images')}, "
            f"{counted(result.captioned, 'caption', 'captions')}. Found: {result.found}.",
            facts=tuple(("", sentence) for sentence in _sentences(result)),
        )
        with_focus(context, result.name)
        return "completed"

    return work


def _sentences(result: ImportResult) -> list[str]:
    listed = [f"What could not be had is listed in {result.failures}."] if result.failures else []
    return [*result.notes, *listed]


def make_maps(
    context: AppContext,
    dataset_name: str,
    kind: str,
    parameters: Mapping[str, Any],
    side: int | None = None,
    varied: int | None = None,
) -> Work:
    """Make all condition maps of a dataset; those that are there already are kept."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.data.dataset import Dataset
        from engine.data.make_maps import make_all

        dataset = Dataset.open(context.workspace.dataset_folder(dataset_name))
        report = make_all(dataset, kind, parameters, token, counting(emit, "Maps made"), resolution=side, varied=varied)
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
    """Three steps and a set of images with these settings, measured."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.training.preflight import preflight_job

        return preflight_job(context.workspace, config, context.hardware)(token, emit)

    return work


def fetch_weights(context: AppContext, kind: str, values: Mapping[str, Any]) -> Work:
    """Download what a condition type lacks; only ever started by a press of its button."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.conditions import registry, weights

        missing = weights.missing(registry.get(kind), values)
        for done, entry in enumerate(missing):
            emit(Progress(done, len(missing), f"{entry.name}, about {entry.need.megabytes:,} MB"))
            weights.download([entry], token)
        names = ", ".join(f"{entry.name} ({entry.target})" for entry in missing)
        context.result("conditions", note=f"Downloaded: {names}." if names else "The weights were here already.")
        return "completed"

    return work


def dataset_name_for(place: str) -> str:
    """A name to suggest for a folder, list or id."""
    from engine.data.importing import suggest_name

    return suggest_name(place or "")
