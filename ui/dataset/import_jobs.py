"""The job that makes a dataset of the user's folder, list, archive or id. The engine is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted
from engine.queue.data_jobs import import_progress
from ui.page.context import AppContext

if TYPE_CHECKING:
    from engine.data.import_config import ImportConfig
    from engine.data.import_result import ImportResult

KIND = JobKind.DATASET


def import_images(context: AppContext, place: str, name: str, config: ImportConfig | None = None) -> Work:
    """Return the job that reads a folder, list, archive or Hugging Face id. What an earlier try has read is kept."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.data.importing import import_source

        show_result(
            context, import_source(context.workspace, place, name, config, import_progress(emit), token), place, emit
        )
        return "completed"

    return work


def show_result(context: AppContext, result: ImportResult, place: str, emit: Emit) -> None:
    """Report what was read from ``place``, and select the dataset on every tab."""
    emit(Message(f"{counted(result.pictures, 'image')}, {counted(result.problems, 'problem')} in {place}."))
    context.set_result(
        KIND,
        note=f"{result.name}: {counted(result.pictures, 'image')}, "
        f"{counted(result.captioned, 'caption')}. Found: {result.found}.",
        facts=tuple(("", sentence) for sentence in _sentences(result)),
    )
    context.focus_on(result.name)
    context.check_by_itself(result.name)


def _sentences(result: ImportResult) -> list[str]:
    failures = [f"The images that could not be loaded are listed in {result.failures}."] if result.failures else []
    guessed = [f"Guessed: {doubt}" for doubt in result.doubts]
    return [*guessed, *result.file_usage, *result.notes, *failures]


def suggested_name(place: str) -> str:
    """Return a name for the dataset of a folder, list or id."""
    from engine.data.before_import import suggest_name

    return suggest_name(place or "")
